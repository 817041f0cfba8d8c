# Highway (SIMD), as the imported target hwy::hwy: from its CMake package, else from pkg-config.

find_package(hwy CONFIG QUIET)
if(NOT TARGET hwy::hwy)
  find_package(PkgConfig QUIET)
  if(PkgConfig_FOUND)
    pkg_check_modules(HIGHWAY QUIET IMPORTED_TARGET GLOBAL libhwy)
    if(HIGHWAY_FOUND)
      add_library(hwy::hwy ALIAS PkgConfig::HIGHWAY)
    endif()
  endif()
endif()
if(TARGET hwy::hwy)
  set(Highway_TARGET hwy::hwy)
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(Highway
  REQUIRED_VARS Highway_TARGET
  REASON_FAILURE_MESSAGE "install Highway (Debian: libhwy-dev)")
