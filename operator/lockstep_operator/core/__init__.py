"""Pure decisions of the operator: state and clock in, manifests, status and plans out."""
