# cmake -DBUILD=... -DCONFIG=... -DGENERATOR=... -DCOMPILER=... -P run.cmake
# Installs the build into a folder inside itself, then configures, builds and runs the consumer against it.
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
