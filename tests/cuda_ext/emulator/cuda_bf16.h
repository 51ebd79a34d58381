// bfloat16 for the emulator.
#pragma once

#include <torch/headeronly/util/BFloat16.h>

struct __nv_bfloat16 {
  uint16_t word;
};
struct alignas(4) __nv_bfloat162 {
  __nv_bfloat16 x, y;
};
inline float __bfloat162float(__nv_bfloat16 x) { return c10::BFloat16(x.word, c10::BFloat16::from_bits()); }
inline __nv_bfloat16 __float2bfloat16_rn(float x) { return {c10::BFloat16(x).x}; }
inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) { return {__float2bfloat16_rn(x), __float2bfloat16_rn(y)}; }
