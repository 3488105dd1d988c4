# CUTLASS and CuTe headers, as the target CutlassHeaders::CutlassHeaders, from the first that has them:
#   1. CUTLASS_DIR, a checkout or include folder that the user gives
#   2. find_package(NvidiaCutlass), an installed CUTLASS
#   3. the pinned wheel nvidia-cutlass, unpacked into .deps/ (scripts/fetch_wheels.py, called from here if need be)
# CuTe includes CUDA's own headers; without a CUDA toolkit those come from NVIDIA's header wheels in the same way.
set(CUTLASS_DIR "" CACHE PATH "A CUTLASS checkout or its include folder; empty: an installed CUTLASS, else the pinned wheel")
set(_deps ${PROJECT_SOURCE_DIR}/.deps)

function(_cutlass_fetch)  # names of wheels
  find_package(Python3 COMPONENTS Interpreter)
  if(Python3_Interpreter_FOUND)
    execute_process(COMMAND ${Python3_EXECUTABLE} ${PROJECT_SOURCE_DIR}/scripts/fetch_wheels.py ${ARGN}
                    RESULT_VARIABLE failed)
  else()
    set(failed "there is no python3")
  endif()
  if(failed)
    message(FATAL_ERROR "The header wheels ${ARGN} could not be fetched (${failed}); give -DCUTLASS_DIR=<checkout>, "
                        "install a CUDA toolkit, or run scripts/fetch_wheels.py where there is a package index")
  endif()
endfunction()

unset(_cutlass_include CACHE)
if(CUTLASS_DIR)
  find_path(_cutlass_include cute/tensor.hpp PATHS ${CUTLASS_DIR} ${CUTLASS_DIR}/include NO_DEFAULT_PATH)
  if(NOT _cutlass_include)
    message(FATAL_ERROR "CUTLASS_DIR=${CUTLASS_DIR} holds no cute/tensor.hpp, nor does its include/; "
                        "give a CUTLASS checkout, or leave it empty")
  endif()
  set(_cutlass_from "CUTLASS_DIR")
else()
  find_package(NvidiaCutlass QUIET)
  if(TARGET nvidia::cutlass::cutlass)
    get_target_property(_dirs nvidia::cutlass::cutlass INTERFACE_INCLUDE_DIRECTORIES)
    find_path(_cutlass_include cute/tensor.hpp PATHS ${_dirs} NO_DEFAULT_PATH)
    set(_cutlass_from "NvidiaCutlass ${NvidiaCutlass_VERSION}")
  endif()
  if(NOT _cutlass_include)
    _cutlass_fetch(nvidia-cutlass)
    set(_cutlass_include ${_deps}/nvidia-cutlass/cutlass_library/source/include)
    set(_cutlass_from "wheel")
  endif()
endif()

# For g++; nvcc brings its own. libcu++ lies in include/cccl from CUDA 13 on.
find_package(CUDAToolkit QUIET)
if(CUDAToolkit_FOUND AND CUDAToolkit_VERSION VERSION_GREATER_EQUAL 12.0)
  set(_cuda_include ${CUDAToolkit_INCLUDE_DIRS})
else()
  _cutlass_fetch(nvidia-cuda-runtime nvidia-cuda-cccl nvidia-cuda-crt)
  set(_cuda_include ${_deps}/nvidia-cuda-runtime/nvidia/cu13/include ${_deps}/nvidia-cuda-cccl/nvidia/cu13/include
                    ${_deps}/nvidia-cuda-crt/nvidia/cu13/include)
endif()
foreach(_dir IN LISTS _cuda_include)
  if(EXISTS ${_dir}/cccl)
    list(APPEND _cuda_include ${_dir}/cccl)
  endif()
endforeach()
list(REMOVE_DUPLICATES _cuda_include)

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(CutlassHeaders REQUIRED_VARS _cutlass_include _cuda_include
                                  REASON_FAILURE_MESSAGE "from ${_cutlass_from}")
message(STATUS "machete: CUTLASS headers from ${_cutlass_from}: ${_cutlass_include}")

if(CutlassHeaders_FOUND AND NOT TARGET CutlassHeaders::CutlassHeaders)
  add_library(CutlassHeaders::CutlassHeaders INTERFACE IMPORTED)
  target_include_directories(CutlassHeaders::CutlassHeaders SYSTEM INTERFACE
    ${_cutlass_include} "$<$<COMPILE_LANGUAGE:CXX>:${_cuda_include}>")
endif()
