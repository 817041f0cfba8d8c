# `find_package(gearshift)` gives gearshift::gearshift, an interface over all modules but the
# simulator's, gearshift::sim, which needs libraries that a training job does not; gearshift::torch
# are headers for programs that have a libtorch of their own, which this package neither needs nor
# looks for.

include(CMakePackageConfigHelpers)

get_property(module_targets GLOBAL PROPERTY GEARSHIFT_MODULE_TARGETS)
list(REMOVE_ITEM module_targets gearshift_sim)
list(TRANSFORM module_targets REPLACE "^gearshift_" "gearshift::" OUTPUT_VARIABLE module_aliases)

add_library(gearshift INTERFACE)
add_library(gearshift::gearshift ALIAS gearshift)
target_link_libraries(gearshift INTERFACE ${module_aliases})
file(GLOB umbrella_headers CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/include/gearshift/*.h")
target_sources(gearshift INTERFACE FILE_SET HEADERS
               BASE_DIRS "${PROJECT_SOURCE_DIR}/include" FILES ${umbrella_headers})
set_target_properties(gearshift PROPERTIES VERIFY_INTERFACE_HEADER_SETS ON)

add_library(gearshift_torch INTERFACE)
add_library(gearshift::torch ALIAS gearshift_torch)
set_target_properties(gearshift_torch PROPERTIES EXPORT_NAME torch)
target_link_libraries(gearshift_torch INTERFACE gearshift::gearshift)
file(GLOB_RECURSE torch_headers CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/include/gearshift/torch/*.h")
target_sources(gearshift_torch INTERFACE FILE_SET HEADERS
               BASE_DIRS "${PROJECT_SOURCE_DIR}/include" FILES ${torch_headers})
if(GEARSHIFT_BUILD_TORCH)
  find_package(Torch REQUIRED)
  target_link_libraries(gearshift_torch INTERFACE "$<BUILD_INTERFACE:${TORCH_LIBRARIES}>")
  set_target_properties(gearshift_torch PROPERTIES VERIFY_INTERFACE_HEADER_SETS ON)
endif()

set(package_dir "${CMAKE_INSTALL_LIBDIR}/cmake/gearshift")
install(TARGETS gearshift gearshift_torch EXPORT gearshift-targets COMPONENT development
        FILE_SET HEADERS DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(EXPORT gearshift-targets NAMESPACE gearshift:: DESTINATION ${package_dir}
        COMPONENT development)
configure_package_config_file(
  "${PROJECT_SOURCE_DIR}/cmake/gearshift-config.cmake.in" gearshift-config.cmake
  INSTALL_DESTINATION ${package_dir} NO_SET_AND_CHECK_MACRO)
write_basic_package_version_file(gearshift-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES "${PROJECT_BINARY_DIR}/gearshift-config.cmake"
              "${PROJECT_BINARY_DIR}/gearshift-config-version.cmake"
              "${PROJECT_SOURCE_DIR}/cmake/FindHighway.cmake"
        DESTINATION ${package_dir} COMPONENT development)
