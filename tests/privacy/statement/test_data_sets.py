import pytest

from mammo_dp.privacy.statement.data_sets import names_alike, names_none


@pytest.mark.parametrize(
    ("origin", "text"),
    [
        ("cbis-ddsm", "CBIS DDSM"),
        ("cbis-ddsm", "CBISDDSM/train"),
        ("cbis-ddsm", "DDSM"),
        ("cbis-ddsm", "mass crops of ddsm"),
        ("cbis-ddsm", "MIAS and the public DDSM (1999)"),
        ("cbis-ddsm", "Curated Breast Imaging Subset of DDSM"),
        ("cbis-ddsm", "the Digital Database for Screening Mammography"),
        ("cbis-ddsm", "https://huggingface.co/x/resnet50-ddsm"),
        ("cbis-ddsm+inbreast", "INbreast 2011"),
        ("cbis-ddsm", "mycbisddsmcrops"),
        ("cbis-ddsm", "MiniDDSM"),
        ("mias", "miniMIAS"),
        ("bcdr", "BCDRs"),
        ("kau-bcmd", "King Abdulaziz University mammograms"),
        ("rsna", "Screening Mammography Breast Cancer Detection (Kaggle)"),
        ("cmmd", "CMMD2022"),
        ("cmmd", "The Chinese Mammography Database"),
        ("bcdr", "BCDR-F03"),
        ("bcdr", "BCDRF03"),
        ("rsna", "RSNA2022"),
        ("vindr-mammo", "images from vindr"),
        ("bcs-dbt", "Breast-Cancer-Screening-DBT"),
        ("ward 3", "crops of ward3"),
        ("Café", "Cafe\u0301"),
        ("own", "our own patients"),
        ("karolinska-2019", "karolinska-2020"),
        ("phantom-archive", "phantom-archive-crops"),
        ("hospital-a", ""),
        ("", "ImageNet-1k"),
        ("hospital-a", "?"),
    ],
)
def test_texts_that_may_name_a_data_set(origin: str, text: str) -> None:
    assert names_alike(origin, text)
    assert names_alike(text, origin)


@pytest.mark.parametrize(
    ("origin", "text"),
    [
        ("own", "ImageNet-1k, downloaded from image-net.org"),
        ("own", "well-known public photographs of Brown University"),
        ("own", "INbreast (downloaded 2023)"),
        ("hospital", "US images of several hospices"),
        ("hospital-a", "mammograms of hospital-b"),
        ("embed", "embedded in 768 dimensions"),
        ("ward 3", "ImageNet, version 3"),
        ("inbreast", "breast images of the web"),
        ("cbis-ddsm", "INbreast and MIAS"),
        ("cbis-ddsm", "LVD-142M, images of the public web"),
        ("phantom-archive", "another-archive"),
        ("site1", "site2"),
    ],
)
def test_texts_that_name_others(origin: str, text: str) -> None:
    assert not names_alike(origin, text)
    assert not names_alike(text, origin)


@pytest.mark.parametrize(
    "text",
    [
        *("unknown", "not known", "n/a", "private", "confidential", "mammograms", "?", ""),
        *("our patients", "in-house mammograms of our hospital", "patients of this study"),
        *("the training set", "see paper", "public breast images"),
    ],
)
def test_texts_that_name_no_data_set_may_mean_any(text: str) -> None:
    assert names_none(text)


@pytest.mark.parametrize(
    "text", ["ImageNet-1k", "RadImageNet", "INbreast", "LVD-142M, images of the public web", "bcdr"]
)
def test_texts_that_name_one(text: str) -> None:
    assert not names_none(text)
