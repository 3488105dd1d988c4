# <machete/version.h>, from project(VERSION), and the private build_info.h, which names the commit. The latter is brought
# up to date by each build (target machete_build_info) and rewritten only when the commit changes.
configure_file(${CMAKE_CURRENT_LIST_DIR}/version.h.in ${PROJECT_BINARY_DIR}/include/machete/version.h @ONLY)

add_custom_target(machete_build_info
  COMMAND ${CMAKE_COMMAND} -DSOURCE=${PROJECT_SOURCE_DIR} -DTEMPLATE=${CMAKE_CURRENT_LIST_DIR}/build_info.h.in
          -DOUTPUT=${PROJECT_BINARY_DIR}/generated/build_info.h -P ${CMAKE_CURRENT_LIST_DIR}/WriteBuildInfo.cmake
  BYPRODUCTS ${PROJECT_BINARY_DIR}/generated/build_info.h
  COMMENT "Naming the commit")
