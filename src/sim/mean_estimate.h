#pragma once

#include <optional>
#include <vector>

namespace gearshift::sim {

/// The mean of a series of which only the first values are known.
struct MeanEstimate {
  int window = 0;         ///< the last so many known values, which the others are taken to be like
  double mean = 0;        ///< of these
  double half_width = 0;  ///< share of the whole series' mean by which it may be off (95 %)
};

/// Estimates the mean of a series of `total` values, of which the first `known.size()` are known
/// and the others like the last known ones. The window has `least` values (a multiple of ten) or
/// more; absent: there are too few of them. To be asked when the series has grown by a fifth or so,
/// not after each value: who asks often enough hears a wrong answer in the end (A. M. Law,
/// J. S. Carson, "A sequential procedure for determining the length of a steady-state simulation",
/// Operations Research 27(5), 1979). The window is a multiple of `period`, after which values are
/// expected to repeat.
///
/// Values may depend on those shortly before. What is done:
///
/// - The initial transient is cut off at the first place where the standard error of what is left
///   is hardly greater than the least one that there is, by means of five values; a cut in the
///   second half says that nothing has settled. MSER-5, which takes the least itself, and is misled
///   by chance more often: K. P. White, "An effective truncation heuristic for bias reduction in
///   simulation output", Simulation 69(6), 1997; K. P. White, M. J. Cobb, S. C. Spratt, "A
///   comparison of five steady-state truncation heuristics for simulation", Winter Simulation
///   Conference 2000.
/// - The variance of the mean is that of ten batch means, whose size grows with the series, and
///   Student's t of nine degrees of freedom makes an interval of it: A. M. Law, W. D. Kelton,
///   "Simulation Modeling and Analysis", chapter 9; B. Schmeiser, "Batch size effects in the
///   analysis of simulation output", Operations Research 30(3), 1982.
/// - Batches grow until they hardly depend on each other. What is left of the correlation of
///   neighbours widens the interval: A. Tafazzoli, J. R. Wilson, "Skart: a skewness- and
///   autoregression-adjusted batch-means procedure", IIE Transactions 43(2), 2011.
/// - Ten batches see a strong correlation late. So the variance is at least that of an
///   autoregressive process of first order with the window's own correlation. Correlations are
///   taken to be greater by their standard error than they look. A window that is worth less than
///   twenty independent values has three degrees of freedom only.
/// - A window that has not settled, or is worth less than five independent values, is taken for a
///   single one with its variance; so are the last twenty values if fewer have settled.
/// - If the batch means have a trend that is hardly chance (Student's t, one in ten), the interval
///   grows by what it would do to the mean if it went on to the end.
/// - With a period, batches are whole periods, and correlation and variance are those of what is
///   left without the mean at each place of it.
///
/// The rest is a sample, too, if a long one, and what is known is known: the interval is one for
/// the mean of these `total` values. What is neither seen nor known of is not found out: a change
/// that comes later, a value so rare that there was none, a trend that is lost in the noise.
inline constexpr int kLeastWindow = 20;
std::optional<MeanEstimate> estimate_mean(const std::vector<double>& known, int total,
                                          int period = 1, int least = kLeastWindow);

}  // namespace gearshift::sim
