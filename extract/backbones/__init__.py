"""Pretrained networks: names, weights, building, engines, stages."""
