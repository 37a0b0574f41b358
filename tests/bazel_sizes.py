"""How long tests take in Bazel's words, and which it leaves to pytest."""

# They judge the checkout, which no target can name: no wildcard runs them.
CHECKOUT = ("test_bazel_offline", "test_build_files", "test_packaging")
# By the path below tests/. The others are medium: they import TensorFlow, which
# takes seconds by itself.
SIZES = {
    "small": (
        "cluster/test_meeting",
        "cluster/test_places",
        "evaluation/test_accuracy",
        "evaluation/test_subsets",
        "launch_scripts/test_kubernetes",
        "launch_scripts/test_local_workers",
        "monitoring/test_counter",
        "monitoring/test_metrics_csv",
        "monitoring/test_progress",
        "reporting/test_charts",
        "reporting/test_maps",
        "reporting/test_thumbnails",
        "serving/test_batching",
        "serving/test_malicious_files",
        "serving/test_predict_api",
        "serving/test_torch_reader",
        "test_launch",
        "test_method_table",
        "test_workdirs",
    ),
    "large": (
        "cluster/test_collectives",
        "cluster/test_faults",
        "cluster/test_leaving",
        "cluster/test_sameness",
        "methods/test_every_method",
        "test_pretrain",
        "test_reference_cases",
        "test_reference_replicas",
        "test_tutorial",
    ),
}
