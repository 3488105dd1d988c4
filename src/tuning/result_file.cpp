#include "tuning/result_file.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

namespace machete::tuning {

Status io_error(const std::string& attempt, const std::string& path) {
  return {StatusCode::kIo, fmt::format("cannot {} {}: {}", attempt, path, std::strerror(errno))};
}

ResultFile::~ResultFile() {
  if (!unfinished_.empty()) static_cast<void>(std::remove(unfinished_.c_str()));
}

Status ResultFile::open(const std::string& path) {
  const std::string unfinished = path + ".unfinished";
  std::FILE* file = std::fopen(unfinished.c_str(), "w");
  if (file == nullptr) return io_error("write", unfinished);
  static_cast<void>(std::fclose(file));
  path_ = path;
  unfinished_ = unfinished;
  return {};
}

Status ResultFile::commit(const std::string& contents) {
  std::FILE* file = std::fopen(unfinished_.c_str(), "w");
  if (file == nullptr) return io_error("write", unfinished_);
  bool written = std::fwrite(contents.data(), 1, contents.size(), file) == contents.size();
  written = std::fflush(file) == 0 && written;
  written = fsync(fileno(file)) == 0 && written;
  const int error = errno;
  written = std::fclose(file) == 0 && written;
  if (!written) {
    if (error != 0) errno = error;
    return io_error("write", unfinished_);
  }
  if (std::rename(unfinished_.c_str(), path_.c_str()) != 0) return io_error("create", path_);
  unfinished_.clear();
  return {};
}

}  // namespace machete::tuning
