# What `cmake --install` puts where: the library with its headers, telefork.pc and CMake package, the
# commands in bin, the helper programs that nobody calls by hand in libexec/telefork, the documents.
# A target that this build does not have is left out.
include(CMakePackageConfigHelpers)

set(TELEFORK_COMMANDS telefork_cli telepad)
set(TELEFORK_HELPERS telefork-agent telefork-keeper telefork-deputy telefork-blank
    telefork-init telefork-greeter)
set(package_folder ${CMAKE_INSTALL_LIBDIR}/cmake/telefork)

foreach(target IN LISTS TELEFORK_COMMANDS)
  if(TARGET ${target})
    install(TARGETS ${target} RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
  endif()
endforeach()
foreach(target IN LISTS TELEFORK_HELPERS)
  if(TARGET ${target})
    install(TARGETS ${target} RUNTIME DESTINATION ${CMAKE_INSTALL_LIBEXECDIR}/telefork)
  endif()
endforeach()

if(TARGET telefork)
  set_target_properties(telefork PROPERTIES
    VERSION ${PROJECT_VERSION}
    SOVERSION ${PROJECT_VERSION_MAJOR}
    # The build's own paths must not reach the exported target.
    INTERFACE_INCLUDE_DIRECTORIES
      "$<BUILD_INTERFACE:${CMAKE_SOURCE_DIR}/include>;$<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>")
  install(TARGETS telefork EXPORT teleforkTargets
          LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
  install(DIRECTORY ${CMAKE_SOURCE_DIR}/include/telefork DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}
          FILES_MATCHING PATTERN "*.h" PATTERN "*.hpp")

  install(EXPORT teleforkTargets NAMESPACE telefork:: DESTINATION ${package_folder})
  configure_package_config_file(${CMAKE_SOURCE_DIR}/cmake/teleforkConfig.cmake.in
                                ${CMAKE_BINARY_DIR}/teleforkConfig.cmake
                                INSTALL_DESTINATION ${package_folder})
  write_basic_package_version_file(${CMAKE_BINARY_DIR}/teleforkConfigVersion.cmake
                                   COMPATIBILITY SameMinorVersion)
  install(FILES ${CMAKE_BINARY_DIR}/teleforkConfig.cmake
                ${CMAKE_BINARY_DIR}/teleforkConfigVersion.cmake
          DESTINATION ${package_folder})

  # Relative to the .pc file, so that an installed tree can be moved as a whole.
  file(RELATIVE_PATH TELEFORK_PC_PREFIX /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)
  string(REGEX REPLACE "/$" "" TELEFORK_PC_PREFIX "${TELEFORK_PC_PREFIX}")
  configure_file(${CMAKE_SOURCE_DIR}/cmake/telefork.pc.in ${CMAKE_BINARY_DIR}/telefork.pc @ONLY)
  install(FILES ${CMAKE_BINARY_DIR}/telefork.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
endif()

install(FILES LICENSE README.md DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(DIRECTORY docs/ DESTINATION ${CMAKE_INSTALL_DOCDIR} FILES_MATCHING PATTERN "*.md")
