#pragma once

#include <array>

#include "formats/foreign.h"

/// The formats that are read: each is declared and listed here, and defined in a file of its own or its family's.
namespace machete::formats {

extern const Format kAwq;
extern const Format kGptq;
extern const Format kGptqV2;
extern const Format kIntQuantized;
extern const Format kPackQuantized;
extern const Format kGguf;
extern const Format kFp8Blocks;
extern const Format kFloatQuantized;
extern const Format kMxfp4Blocks;
extern const Format kMxfp4Packed;
extern const Format kNvfp4Packed;

/// Asked in this order; the first that recognises a tensor has it.
inline constexpr std::array kAllFormats = {&kAwq,           &kGptq,        &kGptqV2,     &kIntQuantized,
                                           &kPackQuantized, &kGguf,        &kFp8Blocks,  &kFloatQuantized,
                                           &kMxfp4Blocks,   &kMxfp4Packed, &kNvfp4Packed};

}  // namespace machete::formats
