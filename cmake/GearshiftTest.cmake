# gearshift_test(<name>
#   SOURCES <file_test.cc>...   relative to the calling folder
#   [DEPS <module>...]          gearshift modules under test (and those that support headers need)
#   [LIBS <target>...]          other libraries
#   [TIMEOUT <seconds>]         120 when left out; four times as long under a sanitizer
#   [LABELS <label>...]
#   [SHARDS <number>]           so many CTest tests, each with a part of the cases, for long suites
#   [SECONDS <number>]          about what a shard takes, 1 when left out: long ones are started first
#   [BUSY]                      counts as two of `ctest -j`, for suites that keep processors busy: most
#                               others wait for deadlines, and can beside them
#   [SERIAL])                   never beside another test, for suites that start many processes
#
# Defines a GoogleTest program (gtest_main and gmock linked) and registers it as one CTest test, or
# as <name>_1, <name>_2, ... when it has shards.
# Sees public headers, private ones below src/, and tests/support as "support/x.h".
function(gearshift_test name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "BUSY;SERIAL" "TIMEOUT;SHARDS;SECONDS" "SOURCES;DEPS;LIBS;LABELS")
  if(arg_UNPARSED_ARGUMENTS OR NOT arg_SOURCES)
    message(FATAL_ERROR "gearshift_test(${name}): needs SOURCES; unknown: ${arg_UNPARSED_ARGUMENTS}")
  endif()
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 120)
  endif()
  if(GEARSHIFT_SANITIZE)
    math(EXPR arg_TIMEOUT "4 * ${arg_TIMEOUT}")
  endif()

  list(TRANSFORM arg_DEPS PREPEND gearshift::)
  add_executable(${name} ${arg_SOURCES})
  gearshift_test_options(${name})
  target_link_libraries(${name} PRIVATE gearshift::test_support ${arg_DEPS} ${arg_LIBS}
                                        GTest::gmock GTest::gtest_main)
  set(environment
    "TSAN_OPTIONS=halt_on_error=1 second_deadlock_stack=1"
    "ASAN_OPTIONS=detect_leaks=1"
    "UBSAN_OPTIONS=print_stacktrace=1")
  if(NOT arg_SHARDS)
    set(arg_SHARDS 1)
  endif()
  if(NOT arg_SECONDS)
    set(arg_SECONDS 1)
  endif()
  set(processors 1)
  if(arg_BUSY)
    set(processors 2)
  endif()
  foreach(shard RANGE 1 ${arg_SHARDS})
    set(test ${name})
    set(sharding "")
    if(arg_SHARDS GREATER 1)
      set(test ${name}_${shard})
      math(EXPR index "${shard} - 1")
      set(sharding "GTEST_TOTAL_SHARDS=${arg_SHARDS}" "GTEST_SHARD_INDEX=${index}")
    endif()
    add_test(NAME ${test} COMMAND ${name} --gtest_brief=1)
    set_tests_properties(${test} PROPERTIES
      TIMEOUT ${arg_TIMEOUT}
      LABELS "${arg_LABELS}"
      COST ${arg_SECONDS}
      PROCESSORS ${processors}
      RUN_SERIAL "${arg_SERIAL}"
      ENVIRONMENT "${environment};${sharding}")
  endforeach()
endfunction()

# How tests are compiled.
function(gearshift_test_options target)
  target_include_directories(${target} PRIVATE "${PROJECT_SOURCE_DIR}/src")
  # A third less to compile than -O3; what is tested keeps its own flags.
  target_compile_options(${target} PRIVATE "$<$<CONFIG:Release>:-O1>")
  target_link_libraries(${target} PRIVATE gearshift_flags)
endfunction()

# Adds each direct subfolder that has a CMakeLists.txt.
function(gearshift_add_test_folders)
  file(GLOB lists RELATIVE "${CMAKE_CURRENT_SOURCE_DIR}" CONFIGURE_DEPENDS
       "${CMAKE_CURRENT_SOURCE_DIR}/*/CMakeLists.txt")
  foreach(list IN LISTS lists)
    cmake_path(GET list PARENT_PATH folder)
    add_subdirectory("${folder}")
  endforeach()
endfunction()
