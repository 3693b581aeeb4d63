"""A finished model as other programs take it: ONNX, a scorecard as JSON, a calculator as one HTML page."""
