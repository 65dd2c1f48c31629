"""MedMNIST's sets by name: the names of their classes and labels, as published with them.

Source: J. Yang et al., MedMNIST v2, Scientific Data 10, 41 (2023), and its file info.py.
"""

from __future__ import annotations

from typing import Final

_ORGANS: Final = (
    "bladder|femur-left|femur-right|heart|kidney-left|kidney-right|liver|lung-left|lung-right|pancreas|spleen"
)
_CLASSES_2D: Final = {
    "bloodmnist": "basophil|eosinophil|erythroblast|"
    "immature granulocytes(myelocytes, metamyelocytes and promyelocytes)|"
    "lymphocyte|monocyte|neutrophil|platelet",
    "breastmnist": "malignant|normal, benign",
    "dermamnist": "actinic keratoses and intraepithelial carcinoma|basal cell carcinoma|"
    "benign keratosis-like lesions|dermatofibroma|melanoma|melanocytic nevi|vascular lesions",
    "octmnist": "choroidal neovascularization|diabetic macular edema|drusen|normal",
    "organamnist": _ORGANS,
    "organcmnist": _ORGANS,
    "organsmnist": _ORGANS,
    "pathmnist": "adipose|background|debris|lymphocytes|mucus|smooth muscle|normal colon mucosa|"
    "cancer-associated stroma|colorectal adenocarcinoma epithelium",
    "pneumoniamnist": "normal|pneumonia",
    "retinamnist": "0|1|2|3|4",
    "tissuemnist": "Collecting Duct, Connecting Tubule|Distal Convoluted Tubule|"
    "Glomerular endothelial cells|Interstitial endothelial cells|Leukocytes|Podocytes|"
    "Proximal Tubule Segments|Thick Ascending Limb",
}
_CLASSES_3D: Final = {
    "adrenalmnist3d": "normal|hyperplasia",
    "fracturemnist3d": "buckle rib fracture|nondisplaced rib fracture|displaced rib fracture",
    "nodulemnist3d": "benign|malignant",
    "organmnist3d": "liver|kidney-right|kidney-left|femur-right|femur-left|bladder|heart|lung-right|lung-left|"
    "spleen|pancreas",
    "synapsemnist3d": "inhibitory synapse|excitatory synapse",
    "vesselmnist3d": "vessel|aneurysm",
}
_LABELS: Final = {
    "chestmnist": "atelectasis|cardiomegaly|effusion|infiltration|mass|nodule|pneumonia|pneumothorax|"
    "consolidation|edema|emphysema|fibrosis|pleural|hernia",
}

CLASS_NAMES: Final = {
    name: tuple(names.split("|")) for name, names in {**_CLASSES_2D, **_CLASSES_3D, **_LABELS}.items()
}
"""Name -> names of its classes in the order of the class numbers; of its labels for the multi-label set."""
