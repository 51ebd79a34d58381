// Whether a GPU can run what was compiled: it may be older than the architectures, its driver older than the toolkit.
#include "common.cuh"

namespace p2pnode {
namespace {

__global__ void __launch_bounds__(THREADS) probe_kernel() {}

}  // namespace

bool runs_here() {
  cudaFuncAttributes attributes;
  if (cudaFuncGetAttributes(&attributes, probe_kernel) == cudaSuccess) return true;
  cudaGetLastError();  // else the next check of a launch would find it
  return false;
}

}  // namespace p2pnode
