// A GPU on the CPU, as far as the kernels of cuda_ext/cuda use one: compiled with this folder before the toolkit's, they run unchanged.
//
// What it is: the meaning of the built-ins. Blocks run one after the other, the threads of a block as fibers that switch at barriers and at
// operations of a warp; emulator.cpp chooses the order from a seed, so that a result that depends on the order, or a missing barrier, shows.
// It is stricter than a GPU: every thread of a block has to come to every barrier, every lane to the same operation of a warp, and shared
// memory is filled with nonsense before each block. What it is not: fast, or right about rounding; expf and its like are the CPU's.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static  // objcopy names the section: the kernels have no other variables

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct float2 {
  float x, y;
};

using std::isinf;
using std::max;
using std::min;

// --- the threads -------------------------------------------------------------------------------------------------------------------

extern dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulator {
void run(dim3 grid, dim3 block, const std::function<void()>& kernel);
// What all lanes of the warp gave; waits for them. `operation` names what they do, and has to be the same for all.
const uint64_t* exchange(unsigned mask, const char* operation, uint64_t value);
void barrier();
[[noreturn]] void fail(const char* what);

template <class T>
T other(unsigned mask, const char* operation, T value, int lane) {
  uint64_t word = 0;
  std::memcpy(&word, &value, sizeof(value));
  std::memcpy(&value, &exchange(mask, operation, word)[lane], sizeof(value));
  return value;
}
inline int lane() { return static_cast<int>((threadIdx.y * blockDim.x + threadIdx.x) % 32); }
}  // namespace emulator

inline void __syncthreads() { emulator::barrier(); }
inline void __syncwarp(unsigned mask = ~0u) { emulator::exchange(mask, "__syncwarp", 0); }
[[noreturn]] inline void __trap() { emulator::fail("a kernel stopped at a wrong index"); }

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int distance) {
  return emulator::other(mask, "__shfl_xor_sync", value, emulator::lane() ^ distance);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, int distance) {
  const int from = emulator::lane() - distance;
  return emulator::other(mask, "__shfl_up_sync", value, from < 0 ? emulator::lane() : from);
}
inline unsigned __reduce_max_sync(unsigned mask, unsigned value) {
  const uint64_t* all = emulator::exchange(mask, "__reduce_max_sync", value);
  return static_cast<unsigned>(*std::max_element(all, all + 32));
}
inline int __reduce_min_sync(unsigned mask, int value) {
  const uint64_t* all = emulator::exchange(mask, "__reduce_min_sync", static_cast<uint64_t>(int64_t{value} - INT32_MIN));
  return static_cast<int>(static_cast<int64_t>(*std::min_element(all, all + 32)) + INT32_MIN);
}
inline unsigned __match_any_sync(unsigned mask, int value) {
  const auto word = static_cast<uint64_t>(static_cast<unsigned>(value));
  const uint64_t* all = emulator::exchange(mask, "__match_any_sync", word);
  unsigned same = 0;
  for (int i = 0; i < 32; ++i) same |= static_cast<unsigned>(all[i] == word) << i;
  return same;
}
inline int __popc(unsigned word) { return __builtin_popcount(word); }
inline int atomicAdd(int* at, int value) {
  const int old = *at;
  *at += value;
  return old;
}

// --- values ------------------------------------------------------------------------------------------------------------------------

template <class T>
T __ldg(const T* at) {
  return *at;
}
template <class T>
void __stwb(T* at, T value) {
  *at = value;
}
inline float __fdividef(float x, float y) { return x / y; }

// --- the runtime -------------------------------------------------------------------------------------------------------------------

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess, cudaErrorNoKernelImageForDevice = 209 };
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount };
struct cudaFuncAttributes {};
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
};

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...), Arguments... arguments) {
  if (config->dynamicSmemBytes) emulator::fail("dynamic shared memory");
  emulator::run(config->gridDim, config->blockDim, [=] { kernel(arguments...); });
  return cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* at, int value, size_t bytes, cudaStream_t) {
  std::memset(at, value, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaFuncGetAttributes(cudaFuncAttributes*, void (*)()) {
  return std::getenv("EMULATOR_IS_OLD") != nullptr ? cudaErrorNoKernelImageForDevice : cudaSuccess;
}
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
// Few, so that grids of bounded size go around more than once.
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) { return *value = 2, cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaSuccess ? "no error" : "no kernel image is available for execution on the device";
}
