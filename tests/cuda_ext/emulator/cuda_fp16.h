// float16 for the emulator.
#pragma once

#include <torch/headeronly/util/Half.h>

#include "cuda_runtime.h"

struct __half {
  uint16_t word;
};
struct alignas(4) __half2 {
  __half x, y;
};
inline float __half2float(__half x) { return c10::Half(x.word, c10::Half::from_bits()); }
inline __half __float2half_rn(float x) { return {c10::Half(x).x}; }
inline __half2 __floats2half2_rn(float x, float y) { return {__float2half_rn(x), __float2half_rn(y)}; }
inline float2 __half22float2(__half2 x) { return {__half2float(x.x), __half2float(x.y)}; }
