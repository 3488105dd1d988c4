# cmake --install: headers, library, command, and the package that find_package(machete) reads.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)
set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/machete)

install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/machete ${PROJECT_BINARY_DIR}/include/machete
        DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} FILES_MATCHING PATTERN "*.h")
install(TARGETS machete EXPORT macheteTargets
        LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}
        INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
if(TARGET machete_cli)
  install(TARGETS machete_cli RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})

install(EXPORT macheteTargets NAMESPACE machete:: DESTINATION ${package_dir})
configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/macheteConfig.cmake.in ${PROJECT_BINARY_DIR}/macheteConfig.cmake
                              INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/macheteConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/macheteConfig.cmake ${PROJECT_BINARY_DIR}/macheteConfigVersion.cmake
        DESTINATION ${package_dir})
