"""MLflow: accuracy, or what else is measured, against labels for all to see. The only room that imports mlflow.

An experiment is a data set and a protocol; a comparison is a parent run, under which each (strategy, posterior, seed)
is a child. The step of every metric is the number of labels. MLflow shows what the journal knows, and no more: when
it fails, the run goes on, and what is missing is sent when it is back, or by `activebdl resume`; each round is one
point, whatever failed when.

    store       experiments and comparisons: what a run is given as its `activebdl.runs.Tracking`
    run         one run, and what the store has not been told of it; `outbox` keeps it until the store is back
    told        parameters, tags, metrics and pictures; `datasets`, the pool and the test set; `system`, the machine
    model       what was learned, as MLflow's own tools load it: without the rest of this room, or of the command line
    ui          the view that MLflow's pages open on, and the server that shows them
"""
