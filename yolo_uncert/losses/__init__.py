"""Training criteria: the stock criterion of Ultralytics plus one term per uncertainty branch."""
