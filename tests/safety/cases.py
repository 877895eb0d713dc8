"""Every way that a caller, a file, an address or a machine can go wrong, and the tests that show what happens then.

A test is named by its file (in `tests`, without `test_` and `.py`) and function, a class in between where there is one. Where
a function is parametrised by cases, those whose ids begin with the case's own name count. `test_cases.py` holds this against
what pytest collects.
"""

from __future__ import annotations

CASES: dict[str, tuple[str, tuple[str, ...]]] = {
    # Paths
    "P1": ("a path where no folder is open", ("safety/paths::test_P1_without_a_folder_nothing_local_is_read",)),
    "P2": (
        "climbing out with ..",
        ("safety/paths::test_refused", "safety/http::test_paths", "safety/paths::test_P2_folders_to_list"),
    ),
    "P3": ("a sibling whose name begins like the folder's", ("safety/paths::test_refused", "safety/http::test_paths")),
    "P4": ("links that lead out, in chains and circles", ("safety/paths::test_refused", "safety/http::test_paths")),
    "P5": ("a link that stays inside", ("safety/paths::test_read",)),
    "P6": (
        "a file or folder swapped for a link while it is opened",
        (
            "safety/paths::test_P6_swapped_while_it_is_read",
            "pictures/sources::TestPaths::test_P6_swaps_between_judging_and_opening",
        ),
    ),
    "P7": ("file: addresses, encoded, of another host", ("safety/paths::test_refused", "safety/paths::test_read")),
    "P8": (
        "the system's own files, and roots that would open them",
        ("safety/paths::test_refused", "safety/paths::test_P8_P10_folders_that_are_refused_or_worth_a_warning"),
    ),
    "P9": (
        "pipes, sockets, devices, folders",
        ("safety/paths::test_refused", "safety/paths::test_P9_special_files_are_quick"),
    ),
    "P10": (
        "hard links; folders that anybody may write",
        ("safety/paths::test_read", "safety/paths::test_P8_P10_folders_that_are_refused_or_worth_a_warning"),
    ),
    "P11": ("names that no file system takes", ("safety/paths::test_refused", "safety/http::test_paths")),
    "P12": ("home, variables, drives, shares", ("safety/paths::test_refused", "safety/paths::test_read")),
    "P13": (
        "missing and unreadable, without telling what exists outside",
        ("safety/paths::test_refused", "safety/paths::test_P13_one_sentence_for_all_that_is_outside"),
    ),
    "P14": (
        "files of a terabyte, and files that grow",
        ("safety/paths::test_refused", "safety/paths::test_P14_P16_files_that_change_while_they_are_read"),
    ),
    "P15": ("a file without bytes", ("safety/paths::test_refused",)),
    "P16": (
        "a file that goes or changes while it is read",
        ("safety/paths::test_P14_P16_files_that_change_while_they_are_read",),
    ),
    "P17": (
        "names that look like something else, and folders of one name",
        (
            "pictures/sources::TestSeveralFolders::test_every_name_that_is_told_leads_back",
            "safety/http::test_P17_listed_names_lead_back",
        ),
    ),
    # Addresses
    "U1": ("other schemes, and addresses with parts missing", ("safety/urls::test_refused_before_any_question",)),
    "U2": ("this machine", ("safety/urls::test_refused_before_any_question",)),
    "U3": (
        "networks that are not public",
        ("safety/urls::test_refused_before_any_question", "safety/urls::test_asked_once_and_never_visited"),
    ),
    "U4": ("numbers in unusual forms", ("safety/urls::test_refused_before_any_question",)),
    "U5": (
        "addresses inside addresses",
        ("safety/urls::test_refused_before_any_question", "safety/urls::test_asked_once_and_never_visited"),
    ),
    "U6": (
        "metadata services of clouds",
        ("safety/urls::test_refused_before_any_question", "safety/urls::test_asked_once_and_never_visited"),
    ),
    "U7": ("a name with a public and a private answer", ("safety/urls::test_asked_once_and_never_visited",)),
    "U8": (
        "a name that answers otherwise the second time",
        ("safety/urls::test_U8_a_second_answer_of_the_resolver_is_never_used",),
    ),
    "U9": (
        "redirects to where nothing may be fetched, and in circles",
        ("safety/urls::test_refused_at_the_server", "safety/urls::test_U9_U16_a_picture_after_three_hops"),
    ),
    "U10": (
        "addresses that two parsers would read in two ways",
        ("safety/urls::test_refused_before_any_question", "safety/urls::test_asked_once_and_never_visited"),
    ),
    "U11": (
        "hosts that resemble an allowed one",
        ("safety/urls::test_U11_only_the_hosts_that_were_named", "pictures/fetch::TestParsing::test_U11_exact_hosts"),
    ),
    "U12": (
        "servers that are slow, stall or are silent",
        ("safety/urls::test_refused_at_the_server", "safety/urls::test_U12_a_dead_address"),
    ),
    "U13": ("bodies without end, lengths that lie", ("safety/urls::test_refused_at_the_server",)),
    "U14": ("compressed bodies", ("safety/urls::test_refused_at_the_server",)),
    "U15": (
        "answers that are no picture, certificates that are none",
        (
            "safety/urls::test_refused_at_the_server",
            "safety/urls::test_U15_a_secure_address_that_is_not",
            "pictures/fetch::TestTls::test_bad_certificates",
        ),
    ),
    "U16": ("proxies and credentials of the environment", ("safety/urls::test_U9_U16_a_picture_after_three_hops",)),
    "U17": ("headers that are huge, many, or malformed", ("safety/urls::test_refused_at_the_server",)),
    "U18": (
        "an internal page, whose kind must not show",
        ("safety/urls::test_U18_one_sentence_for_whatever_is_no_picture",),
    ),
    # Inline data
    "D1": ("good data: URIs, whatever type they declare", ("safety/data::test_D1_works",)),
    "D2": ("malformed headers and base64", ("safety/data::test_refused",)),
    "D3": (
        "megabytes, judged by their length",
        (
            "safety/data::test_D3_megabytes",
            "safety/http::test_bodies",
            "pictures/sources::TestData::test_D3_too_large_before_decoding",
        ),
    ),
    "D4": ("texts and vector graphics", ("safety/data::test_refused",)),
    "D5": ("data inside data, and files of such names", ("safety/data::test_refused",)),
    "D6": ("base64 without a scheme", ("safety/data::test_refused",)),
    # Pictures
    "I1": ("names that lie about a format", ("safety/pictures::test_refused", "safety/pictures::test_read")),
    "I2": (
        "documents, programs, archives",
        ("safety/pictures::test_refused", "safety/pictures::test_I2_no_program_is_started"),
    ),
    "I3": ("picture formats that are not read", ("safety/pictures::test_refused",)),
    "I4": ("a JPEG of several pictures", ("safety/pictures::test_read",)),
    "I5": ("enormous, empty or negative sizes in a header", ("safety/pictures::test_refused",)),
    "I6": ("thin pictures under the limit of area", ("safety/pictures::test_refused",)),
    "I7": ("small files that decode to gigabytes", ("safety/pictures::test_refused",)),
    "I8": ("metadata that decompresses to megabytes", ("safety/pictures::test_refused",)),
    "I9": (
        "truncations and flipped bytes",
        (
            "safety/pictures::test_I9_cut_and_flipped",
            "safety/pictures::test_I9_a_large_picture_that_is_damaged",
            "safety/pictures::test_I9_damage_that_only_a_decoder_finds",
            "pictures/images::TestRefused::test_I9_flipped_bytes",
        ),
    ),
    "I10": (
        "junk, junk behind a magic number, pictures glued together",
        (
            "safety/pictures::test_refused",
            "safety/pictures::test_read",
            "safety/http::test_I10_what_was_refused_is_let_go",
        ),
    ),
    "I11": (
        "every exception that a decoder knows",
        ("safety/pictures::test_refused", "pictures/images::TestRefused::test_I11_I12_every_exception_is_ours"),
    ),
    "I12": (
        "foreign words in an error",
        ("safety/pictures::test_refused", "safety/paths::test_the_judge_of_messages_can_fail"),
    ),
    "I13": ("animations", ("safety/pictures::test_read", "safety/pictures::test_refused")),
    "I14": ("CMYK", ("safety/pictures::test_as_a_person_sees_it", "pictures/images::TestModes::test_I14_cmyk")),
    "I15": ("sixteen bits a channel", ("safety/pictures::test_as_a_person_sees_it",)),
    "I16": ("palettes and transparency that hide colours", ("safety/pictures::test_as_a_person_sees_it",)),
    "I17": (
        "orientation in EXIF, also broken",
        ("safety/pictures::test_as_a_person_sees_it", "safety/pictures::test_read"),
    ),
    "I18": ("colour profiles that are huge or none", ("safety/pictures::test_read",)),
    "I19": (
        "the smallest and the emptiest pictures",
        (
            "safety/pictures::test_refused",
            "safety/pictures::test_read",
            "safety/pictures::test_I19_the_smallest_picture",
        ),
    ),
    "I20": ("thousands of scans; rare kinds of JPEG", ("safety/pictures::test_refused",)),
    "I21": ("equal pixels in another shape", ("safety/pictures::test_I21_same_pixels_in_another_shape",)),
    "I22": ("words in metadata", ("safety/pictures::test_as_a_person_sees_it",)),
    # Text and parameters
    "Q1": ("empty and endless questions", ("safety/text::test_refused", "safety/http::test_texts")),
    "Q2": (
        "surrogates, controls, directions, floods of accents",
        ("safety/text::test_refused", "safety/text::test_read_as_text"),
    ),
    "Q3": (
        "special tokens and templates",
        ("safety/text::test_read_as_text", "safety/text::test_Q3_special_tokens_change_no_other_answer"),
    ),
    "Q4": (
        "numbers that are none, or of another type",
        ("safety/text::test_refused", "safety/text::test_Q4_minus_zero_is_zero"),
    ),
    "Q5": (
        "extreme generation options",
        ("safety/text::test_Q5_extreme_options", "safety/text::test_Q5_options_of_a_server"),
    ),
    "Q6": (
        "arguments that are unknown, missing, nested",
        ("safety/text::test_refused", "safety/data::test_what_cannot_be_parsed_is_answered_under_its_own_id"),
    ),
    "Q7": (
        "no texts, a million, the same one again",
        (
            "safety/text::test_refused",
            "safety/text::test_Q7_duplicates_are_kept",
            "safety/data::test_Q7_small_parts_that_grow_when_they_are_parsed",
        ),
    ),
    "Q8": ("words that try to steer", ("safety/text::test_read_as_text",)),
    # Engine, model, load
    "E1": (
        "a call that is cancelled: before, in the middle, afterwards",
        (
            "server/mcp::test_cancelled_requests_free_the_engine",
            "server/mcp::test_a_cancelled_long_caption_stops_its_row",
            "engine/local::test_a_running_row_ends_at_the_next_token",
        ),
    ),
    "E2": (
        "a client that vanishes",
        (
            "safety/faults::test_E2_a_client_that_vanishes",
            "safety/faults::test_E2_a_client_that_does_not_listen",
            "server/http/app::test_a_client_that_goes_frees_its_row",
        ),
    ),
    "E3": (
        "a deadline that passes",
        (
            "engine/local::test_the_deadline_stops_a_running_row",
            "engine/local::test_an_overdue_request_is_not_even_begun",
        ),
    ),
    "E4": (
        "many at once: each has its own answer",
        (
            "safety/faults::test_only_the_call_that_meets_the_fault_fails",
            "server/http/app::test_64_clients_and_2000_calls",
            "engine/local::test_a_full_queue_is_busy_at_once_and_drains",
        ),
    ),
    "E5": ("two first calls at once", ("engine/local::test_two_first_calls_load_once",)),
    "E6": (
        "a load that fails on its way",
        (
            "safety/faults::test_E6_a_load_that_runs_out_of_memory_is_told_and_tried_again",
            "engine/local::test_a_failed_load_is_told_and_tried_again",
            "checkpoints/loading::TestFailures::test_nothing_half_loaded_remains_and_it_may_be_tried_again",
            "checkpoints/pull::TestPull::test_a_full_disk_is_known_before",
            "checkpoints/pull::TestPull::test_takes_up_a_broken_line",
        ),
    ),
    "E7": (
        "damaged, cut or foreign checkpoint files",
        ("checkpoints/loading::TestRefusals::test_files", "checkpoints/loading::TestRefusals::test_configurations"),
    ),
    "E8": (
        "pickled weights",
        ("checkpoints/loading::TestRefusals::test_pickled_weights_are_never_opened",),
    ),
    "E9": (
        "a configuration that names code",
        ("checkpoints/loading::TestRefusals::test_code_of_a_checkpoint_is_never_run",),
    ),
    "E10": (
        "no hub, or none that answers",
        (
            "checkpoints/pull::TestPull::test_unknown_gated_and_unreachable",
            "checkpoints/loading::TestLoad::test_a_model_that_is_not_here",
        ),
    ),
    "E11": (
        "memory that ends and a device that breaks, at every stage",
        (
            "safety/faults::test_E11_a_stage_that_fails_twice_costs_that_call_alone",
            "engine/local::test_out_of_memory_halves_the_batch",
        ),
    ),
    "E12": (
        "an empty text, and one without end",
        (
            "schemas/schemas::test_results_are_finite_json",
            "model/model::TestSpeak::test_some_texts_end_and_some_are_cut",
        ),
    ),
    "E13": (
        "the same question again",
        (
            "engine/local::test_same_words_without_a_cache",
            "engine/local::test_what_waits_is_served_together_and_says_the_same_as_alone",
        ),
    ),
    "E14": (
        "signals while it loads and decodes",
        (
            "safety/faults::test_E14_a_signal_in_the_middle",
            "safety/faults::test_E14_nothing_is_left_that_hinders_the_next_server",
        ),
    ),
    "E15": ("a picture that gives orders", ("safety/text::test_read_as_text",)),
    "E16": (
        "a text where the model wants pixels",
        ("model/model::TestPixels::test_anything_but_pictures_is_a_type_error",),
    ),
    # Server and adapters
    "S1": ("whatever else writes to standard output", ("server/mcp::test_every_byte_on_standard_output_is_protocol",)),
    "S2": (
        "lines that are no request, and too long",
        (
            "safety/data::test_S2_lines_that_are_no_request",
            "safety/data::test_S2_a_line_of_100_megabytes",
            "safety/data::test_S2_lines_that_want_no_answer",
            "safety/data::test_S2_calls_with_the_same_id_and_before_the_handshake",
        ),
    ),
    "S3": (
        "words that forge a log",
        ("safety/text::test_S3_no_line_of_the_log_is_the_callers", "server/http/app::test_nothing_secret_in_the_log"),
    ),
    "S4": (
        "foreign hosts and origins, no token",
        (
            "server/http/app::test_foreign_hosts",
            "server/http/app::test_foreign_origins",
            "server/http/app::test_every_route_but_health_needs_the_token",
            "server/http/app::test_other_machines_need_a_token",
        ),
    ),
    "S5": ("a catalogue that changes unseen", ("toolset::test_the_catalogue_is_the_committed_one",)),
    "S6": ("faces that say different things", ("vision/vision::test_every_face_says_the_same",)),
    "S7": ("a machine without room", ("safety/faults::test_S7_a_machine_without_room",)),
    "S8": (
        "threads, loops within loops",
        (
            "vision/vision::test_from_many_threads",
            "vision/vision::test_a_sync_verb_inside_its_own_loop_is_refused_instead_of_hanging",
        ),
    ),
    "S9": ("thousands of calls", ("safety/fuzz::test_calls_of_every_kind",)),
    "S10": (
        "extras that are not installed",
        ("cli/look::test_without_the_mcp_extra", "imports::test_importing_is_light"),
    ),
    "S11": (
        "connections that ask for nothing",
        ("safety/http::test_S11_connections_that_ask_for_nothing_lock_nobody_out",),
    ),
    "S12": (
        "slow pictures, addresses and folders of one caller; what nobody waits for any more",
        (
            "safety/http::test_S12_one_callers_slow_pictures_hold_up_nobody_else",
            "pictures/pools::TestSlowPictures::test_a_decode_that_nobody_waits_for_ends",
            "pictures/pools::TestSlowAddresses::test_they_hold_up_no_file",
            "pictures/pools::TestSlowAddresses::test_a_fetch_that_nobody_waits_for_ends",
            "pictures/pools::TestSlowFolders::test_a_listing_that_nobody_waits_for_ends",
        ),
    ),
    "S13": (
        "sessions that nobody ends",
        (
            "server/http/app::test_sessions_that_nobody_ends_lock_nobody_out",
            "server/http/app::test_sessions_that_are_all_in_use",
        ),
    ),
}
