# How everything is compiled: build type, warnings, compiler cache, parallel jobs by memory, and whether there is CUDA.
if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "" FORCE)
endif()
set(CMAKE_CXX_STANDARD 17)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/bin)

find_program(CCACHE_PROGRAM ccache)
mark_as_advanced(CCACHE_PROGRAM)
if(CCACHE_PROGRAM)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CCACHE_PROGRAM})
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${CCACHE_PROGRAM})
endif()

# --- CUDA -------------------------------------------------------------------------------------------------------------
set(MACHETE_HAS_CUDA OFF)
if(NOT MACHETE_CUDA MATCHES "^(AUTO|ON|OFF)$")
  message(FATAL_ERROR "MACHETE_CUDA=${MACHETE_CUDA} must be AUTO, ON or OFF")
endif()
if(NOT MACHETE_CUDA STREQUAL "OFF")
  include(CheckLanguage)
  if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
    find_program(CMAKE_CUDA_COMPILER nvcc PATHS /usr/local/cuda/bin)
  endif()
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    set(CMAKE_CUDA_ARCHITECTURES 90a-real) # wgmma and TMA; no PTX, since nothing is ever compiled at run time
    enable_language(CUDA)
    if(CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 12.8)
      set(MACHETE_HAS_CUDA ON)
    elseif(MACHETE_CUDA STREQUAL "ON")
      message(FATAL_ERROR "MACHETE_CUDA=ON but nvcc is ${CMAKE_CUDA_COMPILER_VERSION}; the kernels need 12.8 or newer: "
                          "set CUDACXX to a newer nvcc, or take MACHETE_CUDA=OFF")
    else()
      message(STATUS "machete: nvcc ${CMAKE_CUDA_COMPILER_VERSION} is older than 12.8 and not used")
    endif()
  elseif(MACHETE_CUDA STREQUAL "ON")
    message(FATAL_ERROR "MACHETE_CUDA=ON but there is no nvcc; put it on the PATH, set CUDACXX, or take MACHETE_CUDA=OFF")
  endif()
endif()
if(MACHETE_HAS_CUDA)
  set(CMAKE_CUDA_STANDARD 17)
  set(CMAKE_CUDA_STANDARD_REQUIRED ON)
  set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
  find_package(CUDAToolkit REQUIRED)
  message(STATUS "machete: CUDA backend for sm_90a with nvcc ${CMAKE_CUDA_COMPILER_VERSION}")
else()
  message(STATUS "machete: CPU backend alone (no CUDA compiler in use)")
endif()

# --- Parallel jobs ----------------------------------------------------------------------------------------------------
# A kernel file takes up to 4 GB to compile. Ninja runs as many of them at once as the memory holds (Make knows no pools).
cmake_host_system_information(RESULT memory_mb QUERY TOTAL_PHYSICAL_MEMORY)
math(EXPR kernel_jobs "${memory_mb} / 4096")
if(kernel_jobs LESS 1)
  set(kernel_jobs 1)
endif()
set_property(GLOBAL APPEND PROPERTY JOB_POOLS machete_kernels=${kernel_jobs})

# --- Warnings, on our own targets only --------------------------------------------------------------------------------
add_library(machete_warnings INTERFACE)
target_compile_options(machete_warnings INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra;-Wshadow;-Wnon-virtual-dtor;-Wold-style-cast>
  $<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall>)
if(MACHETE_WERROR)
  target_compile_options(machete_warnings INTERFACE
    $<$<COMPILE_LANGUAGE:CXX>:-Werror> $<$<COMPILE_LANGUAGE:CUDA>:-Werror=all-warnings>)
endif()

# --- Helpers ----------------------------------------------------------------------------------------------------------
# machete_sources(OUT folder...): the sources below the folders of this directory: C++, and CUDA where that is compiled.
function(machete_sources out)
  set(patterns)
  foreach(folder IN LISTS ARGN)
    list(APPEND patterns ${CMAKE_CURRENT_SOURCE_DIR}/${folder}/*.cpp)
    if(MACHETE_HAS_CUDA)
      list(APPEND patterns ${CMAKE_CURRENT_SOURCE_DIR}/${folder}/*.cu)
    endif()
  endforeach()
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${patterns})
  set(${out} ${sources} PARENT_SCOPE)
endfunction()

# machete_target(NAME): what every target of ours has: include paths, warnings, MACHETE_HAS_CUDA, nvcc's options.
function(machete_target target)
  target_link_libraries(${target} PRIVATE $<BUILD_INTERFACE:machete_warnings>)
  target_include_directories(${target} PRIVATE
    ${PROJECT_SOURCE_DIR}/include ${PROJECT_BINARY_DIR}/include ${PROJECT_SOURCE_DIR}/src ${PROJECT_SOURCE_DIR}
    ${PROJECT_BINARY_DIR}/generated)
  if(MACHETE_HAS_CUDA)
    target_compile_definitions(${target} PRIVATE MACHETE_HAS_CUDA=1)
    target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:--expt-relaxed-constexpr>)
    target_link_libraries(${target} PRIVATE CUDA::cudart_static)
    set_target_properties(${target} PROPERTIES CUDA_RESOLVE_DEVICE_SYMBOLS OFF)
  endif()
endfunction()

# machete_kernel_target(NAME): a target of kernel instances. ptxas reports on each kernel, and one that spills registers
# or whose wgmma are serialised fails the build (cmake/check_ptxas.sh).
function(machete_kernel_target target)
  machete_target(${target})
  target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:-Xptxas=-v>)
  # A list, to which a compiler cache that is not there adds nothing.
  set(launcher ${PROJECT_SOURCE_DIR}/cmake/check_ptxas.sh ${CMAKE_CUDA_COMPILER_LAUNCHER})
  set_target_properties(${target} PROPERTIES
    CUDA_COMPILER_LAUNCHER "${launcher}"
    JOB_POOL_COMPILE machete_kernels)
endfunction()
