from opentalking_s3_storage.testing import s3_server, s3_url

__all__ = ["s3_server", "s3_url"]
