# Whether the simulator (module sim) is built: GEARSHIFT_BUILD_SIM, which is AUTO (when toml++,
# SimGrid and Boost.Context are found), ON (they must be) or OFF. Sets gearshift_sim_enabled.

set(GEARSHIFT_BUILD_SIM AUTO CACHE STRING
    "Build the simulator: AUTO (when toml++, SimGrid and Boost.Context are there), ON or OFF")
set_property(CACHE GEARSHIFT_BUILD_SIM PROPERTY STRINGS AUTO ON OFF)

set(gearshift_sim_enabled OFF)
if(GEARSHIFT_BUILD_SIM)
  find_path(GEARSHIFT_TOMLPLUSPLUS_INCLUDE_DIR toml++/toml.h DOC "Folder of toml++/toml.h")
  find_path(GEARSHIFT_SIMGRID_INCLUDE_DIR simgrid/s4u.hpp DOC "Folder of simgrid/s4u.hpp")
  find_library(GEARSHIFT_SIMGRID_LIBRARY simgrid DOC "The SimGrid library")
  find_path(GEARSHIFT_BOOST_INCLUDE_DIR boost/context/fiber.hpp DOC "Folder of boost/context/fiber.hpp")
  find_library(GEARSHIFT_BOOST_CONTEXT_LIBRARY boost_context DOC "The Boost.Context library")
  mark_as_advanced(GEARSHIFT_TOMLPLUSPLUS_INCLUDE_DIR GEARSHIFT_SIMGRID_INCLUDE_DIR
                   GEARSHIFT_SIMGRID_LIBRARY GEARSHIFT_BOOST_INCLUDE_DIR
                   GEARSHIFT_BOOST_CONTEXT_LIBRARY)
  set(missing "")
  if(NOT GEARSHIFT_TOMLPLUSPLUS_INCLUDE_DIR)
    list(APPEND missing "toml++ (Debian: libtomlplusplus-dev)")
  endif()
  if(NOT GEARSHIFT_SIMGRID_INCLUDE_DIR OR NOT GEARSHIFT_SIMGRID_LIBRARY)
    list(APPEND missing "SimGrid (Debian: libsimgrid-dev)")
  endif()
  if(NOT GEARSHIFT_BOOST_INCLUDE_DIR OR NOT GEARSHIFT_BOOST_CONTEXT_LIBRARY)
    list(APPEND missing "Boost.Context (Debian: libboost-context-dev)")
  endif()
  list(JOIN missing " and " missing)
  if(NOT missing)
    set(gearshift_sim_enabled ON)
  elseif(GEARSHIFT_BUILD_SIM STREQUAL "AUTO")
    message(STATUS "gearshift: the simulator is not built; it needs ${missing}")
  else()
    message(FATAL_ERROR "GEARSHIFT_BUILD_SIM is ${GEARSHIFT_BUILD_SIM}, but the simulator needs "
                        "${missing}")
  endif()
endif()
