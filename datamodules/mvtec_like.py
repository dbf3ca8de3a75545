"""MVTec-like data sets: in the layout of MVTec AD or nearly so."""

from datamodules.mvtec import MVTecLayout


class BTAD(MVTecLayout):
    """beanTech AD (Mishra et al., ISIE 2021); arguments as for `CategoryData`.

    ```
    <root>/<01|02|03>/train/ok/*               normal images, .bmp or .png
                      test/ok/*, test/ko/*
                      ground_truth/ko/<stem>.*   .png or .bmp, whatever the image is
    ```
    """

    known_categories = ("01", "02", "03")
    normal_folder = "ok"
    mask_pattern = "{stem}.*"


class MPDD(MVTecLayout):
    """Metal parts (Jezek et al., ICUMT 2021), in MVTec AD's layout; see `MVTecLayout`."""

    known_categories = (
        *("bracket_black", "bracket_brown", "bracket_white"),
        *("connector", "metal_plate", "tubes"),
    )


class MVTecLOCO(MVTecLayout):
    """MVTec LOCO AD (Bergmann et al., IJCV 2022); arguments as for `CategoryData`.

    ```
    <root>/<category>/train/good/*                         normal images
                      validation/good/*                    normal images, not used
                      test/{good,logical_anomalies,structural_anomalies}/*
                      ground_truth/<defect>/<stem>/*.png   one or several an image
    ```

    An image's masks are united; a pixel's value names the kind of defect, and any but 0 counts.
    The saturation thresholds of its own metric, sPRO, are not read.
    """

    known_categories = (
        *("breakfast_box", "juice_bottle", "pushpins"),
        *("screw_bag", "splicing_connectors"),
    )
    mask_pattern = "{stem}/*.png"
