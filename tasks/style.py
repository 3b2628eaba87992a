"""Style: a photo -> a painting. Without pairs, an OpenCV filter paints the targets."""

import cv2

from tasks.base import PhotoTask


class Style(PhotoTask):
    """The input is the photo, the target its painting in ink and wash."""

    def __init__(self, config):
        super().__init__(config)
        self.bytes_per_pixel = 2 * self.photo_channels  # the photo and its painting

    def target(self, photo):
        large = cv2.resize(photo, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)  # finer outlines
        painting = cv2.stylization(large, sigma_s=60, sigma_r=0.6)
        return cv2.resize(painting, photo.shape[1::-1], interpolation=cv2.INTER_AREA)
