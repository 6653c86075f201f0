"""What stands over each table of the report: its title, and what to read it for."""

TABLES = {
    "verdicts": (
        "What may be concluded",
        "Primary claims, by rules fixed beforehand; p-values after Holm. Everything below is exploratory.",
    ),
    "table2": (
        "In the form of the paper's Table 2",
        "Means over seeds; the paper's rows are another dataset and another classifier, for the form and the "
        "direction alone.",
    ),
    "table3": (
        "In the form of the paper's Table 3",
        "The k-th neighbor among the training images, mean over samples. Held-out images were never trained on: a"
        " model whose row is nearer than theirs copies.",
    ),
    "table3_mean": (
        "Table 3, mean over the first k neighbors",
        "The other reading of the paper's column heads.",
    ),
    "table3_paper": (
        "The paper's Table 3",
        "As printed; its Euclidean columns at k = 5 and 10 do not rise with depth throughout.",
    ),
    "over_seeds": (
        "Shares over seeds",
        "The share corrected over all classes; t interval of the mean logit, seeds - 1 degrees of freedom.",
    ),
    "shares": (
        "Every reading of the shares",
        "classified: as called; corrected: for errors on test images; denoised: for errors on held-out images "
        "that the model itself denoised; second: another architecture; bounds: every ambiguous sample to either "
        "class.",
    ),
    "amplification": (
        "Amplification on three scales",
        "absolute, as odds, and as the exponent S of Theorem 2 (1: as trained; above: amplified). Which model "
        "amplifies most can depend on the scale.",
    ),
    "flips": (
        "Flips on the common noise",
        "Counts b and c are compared (McNemar); the two selections beside them show what choosing on the minority"
        " does by itself. The rows of seeds are the null.",
    ),
    "similarity": (
        "Likeness of models on the same noise",
        "LPIPS: smaller is more alike; correlation: larger. Normal 95 % intervals over noises.",
    ),
    "lpips": (
        "LPIPS",
        "Mean over pairs with jackknife intervals.",
    ),
    "neighbors": (
        "Neighbors",
        "Every entry behind Table 3.",
    ),
    "memorization": (
        "Memorization",
        "memorized: d1 / d2 < 1/3 among the training images, beside held-out images; authenticity and "
        "distance_ratio fall with copying; nearer_to_training: 0.5 without copying, against as many held-out "
        "images; copy, spurious and generalized: as near to a training image, to another sample, or to neither, "
        "as 1 % of held-out images are to training images.",
    ),
    "checkpoints": (
        "Along training",
        "eps_loss: of training and of held-out images at the same noise at every checkpoint; eps_gap above 0 is "
        "memorization. The rest is of a few samples each.",
    ),
    "fidelity": (
        "Samples as a distribution",
        "PRDC, FID and KID against as many training and held-out images. Copies are best by most of these, so "
        "read them beside memorization. FID is comparable at equal n alone; KID is unbiased.",
    ),
    "effective_k": (
        "Effective k",
        "Of the soft k-NN denoiser that predicts the model best, on noised unseen images and on the model's own "
        "path; R^2 of each denoiser on the same x_t. The controls say whether it is the training images that "
        "explain the model.",
    ),
    "predicted": (
        "The share that the fitted rho predicts",
        "Of samples of the soft k-NN denoiser that each model is most like, from its own training images: if "
        "depth amplifies by smoothing the retrieval, this is near what the model itself drew.",
    ),
    "smoothness": (
        "Is the energy of a deeper model smoother?",
        "Each model with the shallowest of the same data and seed, at the same points; log_ratio below 0: "
        "smoother. What random weights show too is not learnt.",
    ),
    "curvature": (
        "Curvature",
        "H and M = I - H / 2 of the trained energy at the pixels, beside the same network with random weights.",
    ),
    "bias_variance": (
        "Bias and variance over models",
        "Eqs. 4 and 5. noise: all models of a row start from the same noises; inverted: from what one more model "
        "made of held-out images. Unbiased for any number of models; two-way intervals.",
    ),
    "quality": (
        "Quality",
        "mean_eps_slope: 1 is right, near 0 is a network that cannot output the mean of eps.",
    ),
    "training": (
        "Training",
        "",
    ),
}
