#pragma once

namespace machete::tokens {

/// What a token's largest value, finite, makes of it (machete/tokens.h), on the host and the device alike.
struct Scale {
  float scale;       // of the codes
  float reciprocal;  // what the token is multiplied with
};

constexpr Scale scale_of(float largest, float limit) {
  constexpr float kLeast = 0x1p-126f;  // a normal number whose reciprocal is finite
  if (largest <= limit * kLeast) return {kLeast, 0x1p126f};
  return {largest / limit, limit / largest};
}

}  // namespace machete::tokens
