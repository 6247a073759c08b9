"""Making a frozen model smaller or faster, each way a bundle of its own with a certificate.

    forest     a model file as arrays of numbers that can be edited
    loss       how much of the teacher's ranking is lost
    prune      fewer trees, and branches that change little cut off
    distil     a small student that learns the teacher's scores
    quantise   coarser numbers, which pack better
    onnx_graph the same trees for ONNX Runtime
    days       what is learnt from, and what is judged
    variants   all of them for one bundle: made, certified, written
    comparison side by side, and which serves what by the measured figures

The model that a variant is made from is its teacher. Nothing here looks at whether a payment was
a fraud: what is kept is the teacher's opinion. How good that leaves a variant is measured once, at
the end, on payments that neither learnt from (`fraudstream.training.certify`).
"""
