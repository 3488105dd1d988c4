#include "bench/timer.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <memory>
#include <type_traits>

#include "testing/cuda_status.h"

namespace machete::bench {
namespace {

using testing::cuda_status;

constexpr double kMinGraphPart = 0.5;    // of what is aimed at; shorter ones are captured again with more launches
constexpr double kMeasurementUs = 40e3;  // for each contender, unless that is fewer than ...
constexpr int kMinReplays = 5;
constexpr int kMaxReplays = 31;
constexpr std::int64_t kMaxLaunches = 8192;

struct EventDeleter {
  void operator()(cudaEvent_t event) const { static_cast<void>(cudaEventDestroy(event)); }
};
using Event = std::unique_ptr<std::remove_pointer_t<cudaEvent_t>, EventDeleter>;

struct GraphDeleter {
  void operator()(cudaGraph_t graph) const { static_cast<void>(cudaGraphDestroy(graph)); }
};
using Graph = std::unique_ptr<std::remove_pointer_t<cudaGraph_t>, GraphDeleter>;

struct GraphExecDeleter {
  void operator()(cudaGraphExec_t graph) const { static_cast<void>(cudaGraphExecDestroy(graph)); }
};
using GraphExec = std::unique_ptr<std::remove_pointer_t<cudaGraphExec_t>, GraphExecDeleter>;

// The time between two points of a stream.
class Stopwatch {
 public:
  static Result<Stopwatch> create() {
    Stopwatch watch;
    for (Event* event : {&watch.start_, &watch.stop_}) {
      cudaEvent_t native = nullptr;
      if (Status status = cuda_status(cudaEventCreate(&native), "cudaEventCreate"); !status.ok()) return status;
      event->reset(native);
    }
    return Result<Stopwatch>(std::move(watch));
  }
  Status start(cudaStream_t stream) { return cuda_status(cudaEventRecord(start_.get(), stream), "cudaEventRecord"); }
  Status stop(cudaStream_t stream) { return cuda_status(cudaEventRecord(stop_.get(), stream), "cudaEventRecord"); }

  /// Waits for the stop.
  Result<double> microseconds() const {
    float ms = 0;
    Status status = cuda_status(cudaEventSynchronize(stop_.get()), "timed launches");
    if (status.ok()) status = cuda_status(cudaEventElapsedTime(&ms, start_.get(), stop_.get()), "cudaEventElapsedTime");
    if (!status.ok()) return status;
    return 1e3 * static_cast<double>(ms);
  }

 private:
  Event start_;
  Event stop_;
};

Result<GraphExec> capture(const Contender& contender, std::int64_t launches, cudaStream_t stream) {
  Status status =
      cuda_status(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
  if (!status.ok()) return status;
  for (std::int64_t i = 0; i < launches && status.ok(); ++i) status = contender.launch(i, stream);
  cudaGraph_t native_graph = nullptr;
  const Status ended = cuda_status(cudaStreamEndCapture(stream, &native_graph), "cudaStreamEndCapture");
  const Graph graph(native_graph);
  if (!status.ok()) return status;
  if (!ended.ok()) return ended;

  cudaGraphExec_t native = nullptr;
  status = cuda_status(cudaGraphInstantiate(&native, graph.get(), 0), "cudaGraphInstantiate");
  if (!status.ok()) return status;
  GraphExec exec(native);
  if (status = cuda_status(cudaGraphUpload(exec.get(), stream), "cudaGraphUpload"); !status.ok()) return status;
  return Result<GraphExec>(std::move(exec));
}

Status replay(const GraphExec& graph, Stopwatch& watch, cudaStream_t stream) {
  if (Status status = watch.start(stream); !status.ok()) return status;
  if (Status status = cuda_status(cudaGraphLaunch(graph.get(), stream), "cudaGraphLaunch"); !status.ok()) return status;
  return watch.stop(stream);
}

// A contender's launches as a graph that is long enough, replayed once.
struct Track {
  GraphExec graph;
  std::int64_t launches = 0;
  double graph_us = 0;

  static Result<Track> create(const Contender& contender, double aim_us, cudaStream_t stream) {
    Result<Stopwatch> watch = Stopwatch::create();
    if (!watch.ok()) return watch.status();

    // Launched directly: the first loads code, the second gives a first idea, its launch included.
    if (Status status = contender.launch(0, stream); !status.ok()) return status;
    if (Status status = cuda_status(cudaStreamSynchronize(stream), "first launch"); !status.ok()) return status;
    if (Status status = watch->start(stream); !status.ok()) return status;
    if (Status status = contender.launch(1, stream); !status.ok()) return status;
    if (Status status = watch->stop(stream); !status.ok()) return status;
    Result<double> us = watch->microseconds();
    if (!us.ok()) return us.status();

    Track track;
    double launch_us = *us;
    for (int attempt = 0; attempt < 3 && track.graph_us < kMinGraphPart * aim_us; ++attempt) {
      const double wanted = std::ceil(aim_us / std::max(launch_us, 0.1));
      const std::int64_t ceiling = std::max(kMaxLaunches, contender.min_launches);
      track.launches = std::clamp(static_cast<std::int64_t>(wanted), contender.min_launches, ceiling);
      Result<GraphExec> graph = capture(contender, track.launches, stream);
      if (!graph.ok()) return graph.status();
      track.graph = std::move(*graph);
      if (Status status = replay(track.graph, *watch, stream); !status.ok()) return status;
      us = watch->microseconds();
      if (!us.ok()) return us.status();
      track.graph_us = *us;
      launch_us = track.graph_us / static_cast<double>(track.launches);
    }
    return Result<Track>(std::move(track));
  }
};

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}

}  // namespace

Result<std::vector<double>> time_in_turn(const std::vector<Contender>& contenders, cudaStream_t stream,
                                         const Effort& effort) {
  std::vector<Track> tracks;
  double round_us = 0;
  for (const Contender& contender : contenders) {
    Result<Track> track = Track::create(contender, effort.graph_us, stream);
    if (!track.ok()) return track.status();
    round_us += track->graph_us;
    tracks.push_back(std::move(*track));
  }
  const double affordable = kMeasurementUs * static_cast<double>(tracks.size()) / std::max(round_us, 1.0);
  int replays = effort.replays;
  if (replays == 0) {
    replays =
        static_cast<int>(std::clamp(affordable, static_cast<double>(kMinReplays), static_cast<double>(kMaxReplays)));
  }

  // Everything is enqueued before anything is waited for, so that graphs follow each other without pauses.
  std::vector<std::vector<Stopwatch>> watches(tracks.size());
  for (int r = 0; r < replays; ++r) {
    for (std::size_t t = 0; t < tracks.size(); ++t) {
      Result<Stopwatch> watch = Stopwatch::create();
      if (!watch.ok()) return watch.status();
      if (Status status = replay(tracks[t].graph, *watch, stream); !status.ok()) return status;
      watches[t].push_back(std::move(*watch));
    }
  }
  std::vector<double> medians;
  for (std::size_t t = 0; t < tracks.size(); ++t) {
    std::vector<double> times;
    for (const Stopwatch& watch : watches[t]) {
      const Result<double> us = watch.microseconds();
      if (!us.ok()) return us.status();
      times.push_back(*us / static_cast<double>(tracks[t].launches));
    }
    medians.push_back(median(std::move(times)));
  }
  return medians;
}

Result<std::vector<double>> time_fastest(const std::vector<Contender>& contenders, cudaStream_t stream, double margin) {
  Result<std::vector<double>> times = time_in_turn(contenders, stream, kShortRound);
  if (!times.ok() || contenders.empty()) return times;
  const double limit = margin * *std::min_element(times->begin(), times->end());
  std::vector<std::size_t> indices;
  std::vector<Contender> fast;
  for (std::size_t i = 0; i < contenders.size(); ++i) {
    if ((*times)[i] > limit) continue;
    indices.push_back(i);
    fast.push_back(contenders[i]);
  }
  const Result<std::vector<double>> closer = time_in_turn(fast, stream);
  if (!closer.ok()) return closer.status();
  for (std::size_t i = 0; i < indices.size(); ++i) (*times)[indices[i]] = (*closer)[i];
  return times;
}

Status run_once(const Contender& contender, cudaStream_t stream) {
  Status status = contender.launch(0, stream);  // loads code
  if (status.ok()) status = cuda_status(cudaStreamSynchronize(stream), "first launch");
  if (!status.ok()) return status;
  const Result<GraphExec> graph = capture(contender, contender.min_launches, stream);
  if (!graph.ok()) return graph.status();
  for (int i = 0; i < 2 && status.ok(); ++i) {
    status = cuda_status(cudaGraphLaunch(graph->get(), stream), "cudaGraphLaunch");
  }
  return status.ok() ? cuda_status(cudaStreamSynchronize(stream), "the graph") : status;
}

}  // namespace machete::bench
