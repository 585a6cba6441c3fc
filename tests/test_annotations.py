from hypothesis import given
from hypothesis import strategies as st

from activebdl import Annotation
from activebdl.annotations import Role, standing

ROLES: list[Role] = ["answer", "answer", "vote", "withdrawn", "correction"]


@given(
    st.lists(
        st.builds(
            lambda id, label, annotator, role: Annotation(
                id, None if role == "withdrawn" else label, annotator, role=role
            ),
            st.integers(0, 2),
            st.integers(0, 2),
            st.sampled_from("abc"),
            st.sampled_from(ROLES),
        ),
        max_size=14,
    )
)
def test_what_stands_of_a_history(history: list[Annotation]) -> None:
    """Read from its end: the last correction, or the first answer met whose annotator has said nothing since."""
    found = standing(history)
    for id in range(3):
        said = [a for a in reversed(history) if a.id == id]
        corrections = [a for a in said if a.role == "correction"]
        spoken: set[str] = set()
        expected: Annotation | None = corrections[0] if corrections else None
        for a in said:
            if expected is None and a.role == "answer" and a.annotator not in spoken:
                expected = a
            if a.role in ("answer", "withdrawn"):
                spoken.add(a.annotator)
        assert found.get(id) == expected
