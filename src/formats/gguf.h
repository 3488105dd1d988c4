#pragma once

#include <memory>
#include <string>

#include "formats/tensor_file.h"
#include "machete/status.h"

namespace machete::formats {

/// A GGUF file, version 2 or 3, little-endian. Shapes are turned round to ours, [N, K]; dtypes are F32, F16, BF16, F64,
/// I8 ... I64 and the names of blocks ("Q4_0", "Q6_K", ...). The metadata hold "gguf.KEY" for each key whose value is a
/// string of UTF-8, a number or a bool; arrays (the tokeniser's) are passed over. Nothing in the file is trusted:
/// whatever contradicts the format is an error that names file, tensor or key, and rule, and no accepted file leads to
/// a read outside its bytes.
Result<TensorFile> open_gguf(const std::string& path);
Result<TensorFile> parse_gguf(const std::string& path, std::shared_ptr<const FileBytes> bytes);

/// Whether the file begins like one. Nothing that safetensors accepts does.
bool is_gguf(const FileBytes& bytes);

}  // namespace machete::formats
