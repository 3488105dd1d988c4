# apache-tvm-ffi as the target TvmFfi::TvmFfi, from the Python package of that name in Python3_EXECUTABLE. Its own package file
# would import it (and torch with it) on every configure.
find_package(Python3 REQUIRED COMPONENTS Interpreter)
execute_process(
  COMMAND ${Python3_EXECUTABLE} -c "import importlib.util as u; print(u.find_spec('tvm_ffi').submodule_search_locations[0])"
  OUTPUT_VARIABLE _tvm_ffi_root OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
find_path(TVM_FFI_INCLUDE_DIR tvm/ffi/c_api.h PATHS ${_tvm_ffi_root}/include NO_DEFAULT_PATH)
find_path(TVM_FFI_DLPACK_INCLUDE_DIR dlpack/dlpack.h
          PATHS ${_tvm_ffi_root}/include ${_tvm_ffi_root}/3rdparty/dlpack/include NO_DEFAULT_PATH)
find_library(TVM_FFI_LIBRARY tvm_ffi PATHS ${_tvm_ffi_root}/lib NO_DEFAULT_PATH)
mark_as_advanced(TVM_FFI_INCLUDE_DIR TVM_FFI_DLPACK_INCLUDE_DIR TVM_FFI_LIBRARY)

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(TvmFfi
  REQUIRED_VARS TVM_FFI_LIBRARY TVM_FFI_INCLUDE_DIR TVM_FFI_DLPACK_INCLUDE_DIR
  REASON_FAILURE_MESSAGE "the Python package apache-tvm-ffi>=0.1.9,<0.2 is not in ${Python3_EXECUTABLE}: install it there, \
give -DPython3_EXECUTABLE=<python>, or take MACHETE_PYTHON=OFF")
if(TvmFfi_FOUND AND NOT TARGET TvmFfi::TvmFfi)
  add_library(TvmFfi::TvmFfi SHARED IMPORTED)
  set_target_properties(TvmFfi::TvmFfi PROPERTIES
    IMPORTED_LOCATION ${TVM_FFI_LIBRARY}
    INTERFACE_INCLUDE_DIRECTORIES "${TVM_FFI_INCLUDE_DIR};${TVM_FFI_DLPACK_INCLUDE_DIR}")
endif()
