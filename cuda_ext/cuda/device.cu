// Whether a GPU can run what was compiled: it may be older than the architectures, its driver older than the toolkit.
#include "common.cuh"

namespace p2pnode {
namespace {

__global__ void __launch_bounds__(THREADS) probe_kernel() {}

}  // namespace

const char* problem_here() {
  cudaFuncAttributes attributes;
  const cudaError_t error = cudaFuncGetAttributes(&attributes, probe_kernel);
  if (error == cudaSuccess) return "";
  cudaGetLastError();  // else the next check of a launch would find it
  return cudaGetErrorString(error);
}

}  // namespace p2pnode
