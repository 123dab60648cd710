// The state of online softmax, shared by rungs 3 and 4: maximum and sum of what has been seen, in one pass.
//
// Formula:   the sum is kept relative to the maximum so far, d = sum_j exp(x_j - m). When the maximum grows
// from m
//            to m', d times exp(m - m') is the sum relative to m': nothing has to be read again.
// Source:    Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018, arXiv:1805.02867.
#pragma once

#include "common.cuh"

struct OnlineSoftmax {
  float largest = -kInfinity;  // m
  float sum = 0.0f;            // d

  __device__ void push(float x) {
    if (x > largest) {
      sum = sum * __expf(largest - x) + 1.0f;  // the first number: 0 * exp(-infinity) + 1
      largest = x;
    } else if (x > -kInfinity) {
      sum += __expf(x - largest);
    }
  }

  // The sum relative to another maximum m' >= m, above -infinity. Where nothing was pushed it stays 0.
  __device__ float sum_relative_to(float other) const { return sum * __expf(largest - other); }
};
