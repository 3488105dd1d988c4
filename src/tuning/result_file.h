#pragma once

#include <string>

#include "machete/status.h"

namespace machete::tuning {

/// Of the call that has just failed: "cannot ATTEMPT PATH: ...".
Status io_error(const std::string& attempt, const std::string& path);

/// A file that appears complete or not at all. open() finds out early whether it can be written; what is not committed
/// leaves nothing behind.
class ResultFile {
 public:
  ResultFile() = default;
  ~ResultFile();
  ResultFile(const ResultFile&) = delete;
  ResultFile& operator=(const ResultFile&) = delete;

  Status open(const std::string& path);
  Status commit(const std::string& contents);

 private:
  std::string path_;
  std::string unfinished_;  // beside path_; empty when there is nothing to clean up
};

}  // namespace machete::tuning
