// All kernels of one instruction set in one table. Everything in it stands in an anonymous namespace and calls no inline function of any
// library: a linker that merged such a function with another source's would let its instructions out.
#pragma once

#include "kernels.h"
#include "router.inc.h"
#include "rows.inc.h"
#include "swiglu.inc.h"

namespace {

template <class T>
constexpr p2pnode::Typed typed() {
  return {swiglu<T>,           swiglu_backward<T>, route<T>,         route_backward<T>, combine<T>,
          combine_backward<T>, probabilities<T>,   aux_loss_backward<T>};
}

constexpr p2pnode::Kernels table(const char* name, decltype(p2pnode::Kernels::product) product = nullptr) {
  return {name, typed<float>(), typed<uint16_t>(), permute, product};
}

}  // namespace
