# gearshift_module(<name>
#   [SOURCES <file.cc>...]          relative to the calling folder; none makes an INTERFACE library
#   [HEADERS <header.h>...]         public headers, relative to include/gearshift/<name>/;
#                                   all of that folder when left out
#   [DEPS <module>...]              gearshift modules, part of the public interface
#   [PRIVATE_DEPS <target>...])     other libraries, not seen by users of the module
#
# Defines the static library gearshift_<name>, known as gearshift::<name>, and installs it. Public
# headers are found as <gearshift/<name>/x.h>, private ones, inside the build only, as
# "<module>/x.h" below src/.
function(gearshift_module name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "SOURCES;HEADERS;DEPS;PRIVATE_DEPS")
  if(arg_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "gearshift_module(${name}): unknown arguments ${arg_UNPARSED_ARGUMENTS}")
  endif()

  set(target gearshift_${name})
  if(arg_SOURCES)
    add_library(${target} STATIC ${arg_SOURCES})
    set(scope PUBLIC)
    target_include_directories(${target} PRIVATE "${PROJECT_SOURCE_DIR}/src")
    target_link_libraries(${target} PRIVATE $<BUILD_INTERFACE:gearshift_flags> ${arg_PRIVATE_DEPS})
  else()
    add_library(${target} INTERFACE)
    set(scope INTERFACE)
  endif()
  add_library(gearshift::${name} ALIAS ${target})
  set_target_properties(${target} PROPERTIES EXPORT_NAME ${name})
  target_compile_features(${target} ${scope} cxx_std_20)
  list(TRANSFORM arg_DEPS PREPEND gearshift::)
  target_link_libraries(${target} ${scope} ${arg_DEPS})

  _gearshift_module_headers(${target} ${scope} "${PROJECT_SOURCE_DIR}/include/gearshift/${name}"
                            ${arg_HEADERS})
  install(TARGETS ${target} EXPORT gearshift-targets COMPONENT development
          ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}
          FILE_SET HEADERS DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
  set_property(GLOBAL APPEND PROPERTY GEARSHIFT_MODULE_TARGETS ${target})
endfunction()

function(_gearshift_module_headers target scope folder)
  if(ARGN)
    list(TRANSFORM ARGN PREPEND "${folder}/" OUTPUT_VARIABLE headers)
  else()
    file(GLOB_RECURSE headers CONFIGURE_DEPENDS "${folder}/*.h")
  endif()
  target_sources(${target} ${scope} FILE_SET HEADERS
                 BASE_DIRS "${PROJECT_SOURCE_DIR}/include" FILES ${headers})
  set_target_properties(${target} PROPERTIES VERIFY_INTERFACE_HEADER_SETS ON)
endfunction()
