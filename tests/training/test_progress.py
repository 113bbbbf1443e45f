"""Progress of a run that all ranks share."""

from training.progress import Progress


def test_messages_of_all_ranks_are_merged_where_the_loaders_append_them(monkeypatch):
    progress = Progress(bad_images=["c", "a"])
    of_loaders = progress.bad_images
    monkeypatch.setattr("training.progress.all_gather", lambda own: [own, ["b", "a"]])
    progress.share_bad_images()
    of_loaders.append("d")
    assert progress.bad_images == ["a", "b", "c", "d"]
