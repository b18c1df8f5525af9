# What every image of ours asks of an engine: the base, a step that runs with a secret, stages.
#   built by images/choice.py before an engine is taken, and thrown away
ARG BASE=debian:trixie-slim

FROM ${BASE} AS step
RUN --mount=type=secret,id=ca cp /etc/debian_version /made

FROM ${BASE}
ARG PIP_INDEX_URL
COPY --from=step /made /made
USER 65532:65532
