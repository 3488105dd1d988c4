# cmake -DBUILD=... -DCONFIG=... -DGENERATOR=... -DCOMPILER=... -P run.cmake
# Installs the build into a folder inside itself, then configures, builds and runs against it: the consumer, and the programs
# that docs/deploy.md shows.
set(work ${BUILD}/consumer)
set(prefix ${work}/prefix)
file(REMOVE_RECURSE ${work})

function(step)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE failed OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(failed)
    message(FATAL_ERROR "${ARGN}: ${failed}\n${output}")
  endif()
  message("${output}")
endfunction()

step(${CMAKE_COMMAND} --install ${BUILD} --prefix ${prefix} --config ${CONFIG})
step(${CMAKE_COMMAND} -S ${CMAKE_CURRENT_LIST_DIR} -B ${work}/build -G ${GENERATOR} -DCMAKE_BUILD_TYPE=${CONFIG}
     -DCMAKE_CXX_COMPILER=${COMPILER} -DCMAKE_PREFIX_PATH=${prefix} -DCMAKE_FIND_USE_PACKAGE_REGISTRY=OFF)
step(${CMAKE_COMMAND} --build ${work}/build --config ${CONFIG})
step(${work}/build/consumer)

# Block LANGUAGE (and NAME, where there are several) of the page, as a file.
function(extract fence file)
  file(READ ${CMAKE_CURRENT_LIST_DIR}/../../docs/deploy.md page)
  string(FIND "${page}" "```${fence}\n" start)
  if(start EQUAL -1)
    message(FATAL_ERROR "docs/deploy.md has no block ```${fence}")
  endif()
  string(LENGTH "```${fence}\n" length)
  math(EXPR start "${start} + ${length}")
  string(SUBSTRING "${page}" ${start} -1 rest)
  string(FIND "${rest}" "```\n" length)
  string(SUBSTRING "${rest}" 0 ${length} block)
  file(WRITE ${work}/deploy/${file} "${block}")
endfunction()

extract(cmake CMakeLists.txt)
extract("cpp pack.cpp" pack.cpp)
extract("cpp serve.cpp" serve.cpp)
step(${CMAKE_COMMAND} -S ${work}/deploy -B ${work}/deploy/build -G ${GENERATOR} -DCMAKE_BUILD_TYPE=${CONFIG}
     -DCMAKE_CXX_COMPILER=${COMPILER} -DCMAKE_CXX_FLAGS=-Wall\ -Wextra\ -Werror -DCMAKE_PREFIX_PATH=${prefix}
     -DCMAKE_FIND_USE_PACKAGE_REGISTRY=OFF)
step(${CMAKE_COMMAND} --build ${work}/deploy/build --config ${CONFIG})
step(${work}/deploy/build/pack ${work}/deploy/weight.machete)
step(${work}/deploy/build/serve ${work}/deploy/weight.machete)
