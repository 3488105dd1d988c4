#pragma once

#include <functional>
#include <string>

#include "formats/checkpoint.h"
#include "formats/format_writer.h"
#include "machete/status.h"
#include "rewrite.h"

namespace machete::tools {

/// Writes a checkpoint for another tool: FOLDER/model.safetensors and, beside it, FOLDER/config.json, which is the
/// input's with another quantization_config. The folder is made if need be; nothing in it is replaced, and after a
/// failure nothing of it is left. Errors: layers that the format cannot hold, what make(index into the manifest's
/// layers) returns, what the file system says.
Status export_checkpoint(const formats::Checkpoint& checkpoint, const std::string& folder,
                         const formats::FormatWriter& format, const Rewrite& rewrite,
                         const std::function<Result<reference::QuantizedTensor>(std::size_t)>& make);

}  // namespace machete::tools
