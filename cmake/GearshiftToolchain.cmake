# How this project is compiled: language level, warnings, sanitizers, ccache and mold.
#
# Everything that the project builds links `gearshift_flags` privately; nothing of it reaches users.

set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "Build type" FORCE)
endif()

find_program(GEARSHIFT_CCACHE ccache)
mark_as_advanced(GEARSHIFT_CCACHE)
if(GEARSHIFT_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  # With what the compiler says about included files, a file that is not in the cache need not be
  # preprocessed first only to be looked up: a tenth of its time.
  set(CMAKE_CXX_COMPILER_LAUNCHER env CCACHE_DEPEND=1 "${GEARSHIFT_CCACHE}")
endif()

add_library(gearshift_flags INTERFACE)
target_compile_features(gearshift_flags INTERFACE cxx_std_20)
target_compile_options(gearshift_flags INTERFACE -Wall -Wextra -Wpedantic -Wshadow)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  # GCC 12 reports overlaps and overflows inside std::string and std::vector that cannot happen (GCC
  # bugs 105651 and 107852). AddressSanitizer looks for the real ones.
  target_compile_options(gearshift_flags INTERFACE -Wno-restrict -Wno-stringop-overflow)
endif()
if(CMAKE_UNITY_BUILD AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  # Types of a source file's own look as if they were a header's when files are compiled together.
  target_compile_options(gearshift_flags INTERFACE -Wno-subobject-linkage)
  # The compiler looks for memory that it no longer needs beyond half a gigabyte only (in KiB): that
  # takes 2 to 6 % of its time.
  target_compile_options(gearshift_flags INTERFACE --param=ggc-min-heapsize=524288)
endif()
if(CMAKE_CXX_COMPILER_ID MATCHES "Clang")
  target_compile_options(gearshift_flags INTERFACE -Wthread-safety)
endif()
if(GEARSHIFT_WERROR)
  target_compile_options(gearshift_flags INTERFACE -Werror)
endif()

if(GEARSHIFT_SANITIZE)
  if(NOT GEARSHIFT_SANITIZE MATCHES "^(address|undefined|address,undefined|thread)$")
    message(FATAL_ERROR "GEARSHIFT_SANITIZE is '${GEARSHIFT_SANITIZE}'; it must be address, undefined, "
                        "both with a comma between, thread or empty")
  endif()
  target_compile_options(gearshift_flags INTERFACE
    -fsanitize=${GEARSHIFT_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  target_link_options(gearshift_flags INTERFACE -fsanitize=${GEARSHIFT_SANITIZE})
endif()

find_program(GEARSHIFT_MOLD mold)
mark_as_advanced(GEARSHIFT_MOLD)
if(GEARSHIFT_MOLD)
  include(CheckLinkerFlag)
  check_linker_flag(CXX -fuse-ld=mold GEARSHIFT_MOLD_WORKS)
  if(GEARSHIFT_MOLD_WORKS)
    target_link_options(gearshift_flags INTERFACE -fuse-ld=mold)
  endif()
endif()
