#include "tuning/journal.h"

#include <fmt/format.h>

#include <cmath>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <system_error>
#include <utility>

#include "tuning/result_file.h"

namespace machete::tuning {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kDate = "date";

Json to_json(const Setting& setting) {
  Json shapes = Json::array();
  for (const Size& size : setting.sizes) shapes.push_back(to_string(size));
  return {{"gpu", setting.gpu},
          {"driver", setting.driver},
          {"cuda", setting.cuda},
          {"commit", setting.commit},
          {kDate, setting.date},
          {"type", name_of(setting.w_type)},
          {"a", name_of(setting.a_type)},
          {"group-size", setting.group_size},
          {"top", setting.top},
          {"except", setting.without},
          {"m", setting.ms},
          {"shapes", shapes}};
}

Json to_json(const Measurement& measurement) {
  Json us = Json::object();
  for (const Timing& timing : measurement.times) us[timing.schedule] = std::round(timing.us * 1e3) / 1e3;
  const Point& point = measurement.point;
  return {{"n", point.n}, {"k", point.k}, {"m", point.m}, {"overlap", point.overlap}, {"us", us}};
}

Measurement to_measurement(const Json& json) {
  Measurement measurement;
  measurement.point = {json.at("n"), json.at("k"), json.at("m"), json.at("overlap")};
  for (const auto& [schedule, us] : json.at("us").items()) measurement.times.push_back({schedule, us.get<double>()});
  return measurement;
}

}  // namespace

Result<Journal> Journal::open(const std::string& path, const Setting& setting) {
  Journal journal;
  journal.path_ = path;
  journal.setting_ = setting;
  std::string text;
  if (std::ifstream file(path, std::ios::binary); file) text.assign(std::istreambuf_iterator<char>(file), {});
  const std::size_t whole = text.rfind('\n') + 1;  // 0 where there is no line
  text.resize(whole);
  if (!text.empty()) {
    if (Status status = journal.read(text); !status.ok()) return status;
    std::error_code error;
    std::filesystem::resize_file(path, whole, error);
    if (error) return Status(StatusCode::kIo, fmt::format("cannot write {}: {}", path, error.message()));
  }
  journal.file_.reset(std::fopen(path.c_str(), text.empty() ? "w" : "a"));
  if (journal.file_ == nullptr) return io_error("write", path);
  if (text.empty()) {
    if (Status status = journal.write_line(to_json(setting).dump()); !status.ok()) return status;
  }
  return Result<Journal>(std::move(journal));
}

Status Journal::read(const std::string& text) {
  int number = 0;
  try {
    for (std::size_t begin = 0; begin < text.size();) {
      const std::size_t end = text.find('\n', begin);
      ++number;
      const Json line = Json::parse(text.begin() + static_cast<std::ptrdiff_t>(begin),
                                    text.begin() + static_cast<std::ptrdiff_t>(end));
      begin = end + 1;
      if (number > 1) {
        measurements_.push_back(to_measurement(line));
        continue;
      }
      const Json wanted = to_json(setting_);
      for (const auto& [name, value] : wanted.items()) {
        if (name == kDate || line.at(name) == value) continue;
        return {StatusCode::kInvalidArgument,
                fmt::format("{} was begun with {} {}, where this run has {}; run it as it was begun, or remove the "
                            "file to begin afresh",
                            path_, name, line.at(name).dump(), value.dump())};
      }
      line.at(kDate).get_to(setting_.date);
    }
  } catch (const Json::exception& error) {
    return {StatusCode::kCorrupt, fmt::format("{}: line {} is not what `machete tune` writes: {}; remove the file to "
                                              "begin afresh",
                                              path_, number, error.what())};
  }
  return {};
}

Status Journal::write_line(const std::string& line) {
  const bool written = std::fputs(line.c_str(), file_.get()) >= 0 && std::fputc('\n', file_.get()) != EOF &&
                       std::fflush(file_.get()) == 0;
  return written ? Status() : io_error("write", path_);
}

Status Journal::append(Measurement measurement) {
  if (Status status = write_line(to_json(measurement).dump()); !status.ok()) return status;
  measurements_.push_back(std::move(measurement));
  return {};
}

Status Journal::rename(const std::string& path) {
  if (std::rename(path_.c_str(), path.c_str()) != 0) return io_error("create", path);
  path_ = path;
  return {};
}

}  // namespace machete::tuning
