"""Many generated questions to the query API.

Proves that none of about 5,000 questions, allowed by the schema or not, gets an answer that the schema does not allow,
or a status of 500 and more. Takes a minute.
"""

from tests.integration.conftest import Service
from tests.integration.service.test_schema import check_no_question_breaks_the_schema


def test_no_question_breaks_the_schema(service: Service) -> None:
    check_no_question_breaks_the_schema(service, 150)
