#!/usr/bin/env bash
# A worker of processes that ends in good order:  worker --pool gpu [OPTION OF `prefect worker start`...]
# Asked to stop, Prefect's worker kills its flow runs, and the server takes them for running until they are missed.
# Here each is told first: it writes how its attempt ended, reports, and the job goes on with the next attempt at once.
set -u
set -m # the worker gets a process group of its own, so that `tini -g` does not reach it before this does

prefect worker start --type process "$@" &
worker=$!

lives() { grep -qsE '^State:[[:space:]]+[^ZX[:space:]]' "/proc/$1/status"; }

end() {
    kill -STOP "$worker" # it would start others in their place
    read -ra runs < <(cat /proc/"$worker"/task/*/children | tr '\n' ' ')
    [ ${#runs[@]} = 0 ] || kill -TERM "${runs[@]}"
    for run in ${runs[@]+"${runs[@]}"}; do
        while lives "$run"; do sleep 0.2; done # the engine of the container ends our patience
    done
    kill -CONT "$worker"
    kill -TERM "$worker"
}
trap end TERM INT

while lives "$worker"; do wait "$worker"; done
wait "$worker" # what cut off the one before, a signal or the stop, is no exit code of the worker; bash remembers that
