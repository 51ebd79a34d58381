// What the kernels share: sixteen bytes at a time, a warp's sums, a grid over rows, and the launch.
//
// Values are read and written in their own type and computed in float32. A pack is what one thread moves by one instruction: sixteen bytes
// where the addresses allow it (N = 16 / sizeof(T) values), else one value (N = 1); kernels are templates over N and know no third case.
// For editors: all of it is plain C++ besides the built-ins of CUDA, and tests/cuda_ext/emulator compiles it for the CPU.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "kernels.h"

namespace p2pnode {

constexpr int WARP = 32;
constexpr int THREADS = 256;  // of every block
constexpr int WARPS = THREADS / WARP;
constexpr unsigned ALL_LANES = 0xffffffffu;

// --- packs -------------------------------------------------------------------------------------------------------------------------

template <class T>
constexpr int WIDTH = 16 / sizeof(T);

template <class T, int N>
using Pack = std::conditional_t<N == 1, T, uint4>;

// Through the read-only path: nothing that a kernel reads this way is written while it runs.
template <class T, int N>
__device__ __forceinline__ Pack<T, N> load(const T* values) {
  return __ldg(reinterpret_cast<const Pack<T, N>*>(values));
}

// By the built-in: of a plain assignment of four floats the compiler makes four stores.
template <class T, int N>
__device__ __forceinline__ void store(T* values, Pack<T, N> pack) {
  __stwb(reinterpret_cast<Pack<T, N>*>(values), pack);
}

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float to_float(__half x) { return __half2float(x); }

template <class T>
__device__ __forceinline__ T from_float(float x) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    return __float2bfloat16_rn(x);
  } else if constexpr (std::is_same_v<T, __half>) {
    return __float2half_rn(x);
  } else {
    return x;
  }
}

template <class To, class From>
__device__ __forceinline__ To bits(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof(to));
  return to;
}

// Two values of half a word each.
template <class T>
__device__ __forceinline__ float2 unpack_word(unsigned word) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    return {bits<float>(word << 16), bits<float>(word & 0xffff0000u)};
  } else {
    return __half22float2(bits<__half2>(word));
  }
}

template <class T>
__device__ __forceinline__ unsigned pack_word(float low, float high) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    return bits<unsigned>(__floats2bfloat162_rn(low, high));
  } else {
    return bits<unsigned>(__floats2half2_rn(low, high));
  }
}

template <class T, int N>
__device__ __forceinline__ void unpack(Pack<T, N> pack, float (&values)[N]) {
  if constexpr (N == 1) {
    values[0] = to_float(pack);
  } else {
    const unsigned words[4] = {pack.x, pack.y, pack.z, pack.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if constexpr (N == 4) {
        values[i] = bits<float>(words[i]);
      } else {
        const float2 pair = unpack_word<T>(words[i]);
        values[2 * i] = pair.x;
        values[2 * i + 1] = pair.y;
      }
    }
  }
}

template <class T, int N>
__device__ __forceinline__ Pack<T, N> pack(const float (&values)[N]) {
  if constexpr (N == 1) {
    return from_float<T>(values[0]);
  } else if constexpr (N == 4) {
    return {bits<unsigned>(values[0]), bits<unsigned>(values[1]), bits<unsigned>(values[2]), bits<unsigned>(values[3])};
  } else {
    return {
        pack_word<T>(values[0], values[1]), pack_word<T>(values[2], values[3]), pack_word<T>(values[4], values[5]),
        pack_word<T>(values[6], values[7])};
  }
}

// --- a warp ------------------------------------------------------------------------------------------------------------------------

__device__ __forceinline__ int lane() { return threadIdx.x % WARP; }

// In an order that is always the same; each lane gets the same bits.
__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
  for (int distance = WARP / 2; distance > 0; distance /= 2) x += __shfl_xor_sync(ALL_LANES, x, distance);
  return x;
}

// --- arithmetic --------------------------------------------------------------------------------------------------------------------

// Of NaN NaN, of infinities 0 and 1. The division is off by at most one place in 2^-23.
__device__ __forceinline__ float sigmoid(float x) { return __fdividef(1.0f, 1.0f + expf(-x)); }

// --- grids -------------------------------------------------------------------------------------------------------------------------

__host__ __device__ constexpr int64_t ceil_div(int64_t x, int64_t y) { return (x + y - 1) / y; }

// A grid over rows of packs: a block is `blockDim.y` rows high and `blockDim.x` packs wide, and each thread has EACH packs of its row,
// `blockDim.x` apart. No thread divides more than once, and that 32 bits by 32.
struct Grid {
  int64_t rows, packs;  // `packs` of each row
  unsigned blocks_a_row;
};

__device__ __forceinline__ int64_t grid_row(const Grid& grid) {
  return static_cast<int64_t>(blockIdx.x / grid.blocks_a_row) * blockDim.y + threadIdx.y;
}

template <int EACH>
__device__ __forceinline__ int64_t grid_pack(const Grid& grid) {
  return static_cast<int64_t>(blockIdx.x % grid.blocks_a_row) * (EACH * blockDim.x) + threadIdx.x;
}

// --- the launch --------------------------------------------------------------------------------------------------------------------

inline void check(cudaError_t error) {
  if (error != cudaSuccess) throw std::runtime_error(std::string("p2pnode: CUDA: ") + cudaGetErrorString(error));
}

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), int64_t blocks, dim3 block, cudaStream_t stream, Arguments... arguments) {
  if (blocks == 0) return;
  if (blocks > INT32_MAX) throw std::runtime_error("p2pnode: CUDA: a tensor of more blocks than a grid has");
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = block;
  config.stream = stream;
  check(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...));
}

// The kernel's first parameter is the grid.
template <int EACH, class... Parameters, class... Arguments>
void launch_rows(void (*kernel)(Grid, Parameters...), int64_t rows, int64_t packs, cudaStream_t stream, Arguments... arguments) {
  if (rows == 0 || packs == 0) return;
  unsigned width = WARP;
  while (width < THREADS && width * EACH < packs) width *= 2;
  const unsigned height = THREADS / width;
  const int64_t blocks_a_row = ceil_div(packs, width * EACH);
  launch(
      kernel, ceil_div(rows, height) * blocks_a_row, dim3(width, height), stream, Grid{rows, packs, static_cast<unsigned>(blocks_a_row)},
      arguments...);
}

inline int processors() {
  int device = 0, count = 0;
  check(cudaGetDevice(&device));
  check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device));
  return count;
}

// Calls `function` with a value of the type.
template <class Function>
void with_type(Type type, Function function) {
  switch (type) {
    case Type::f32: return function(float());
    case Type::bf16: return function(__nv_bfloat16());
    case Type::f16: return function(__half());
  }
}

// Whether packs of N values can be moved: every row of `columns` values, and every one of the pointers, begins on sixteen bytes.
template <class T, class... Pointers>
bool packs_fit(int64_t columns, Pointers... pointers) {
  return columns % WIDTH<T> == 0 && ((reinterpret_cast<uintptr_t>(pointers) % 16 == 0) && ...);
}

}  // namespace p2pnode
