"""An HTTP service and a web page over a trained run."""
