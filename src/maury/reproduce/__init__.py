"""The experiments of Gupta et al. 2024, each with one command: ``maury reproduce sine|three|five``.

"The paper", in this package and wherever else it is said, is *Bayesian Inference on Stellar Spectra with Flow-based Model* (Gupta, Liu,
Vazquez-Segovia, Wei & Zhu 2024).
"""
