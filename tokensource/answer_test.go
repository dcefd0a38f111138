package tokensource

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
	"time"
	"unicode"
	"unicode/utf8"
)

// noon is when the answers in testdata arrived.
var noon = time.Date(2026, 12, 1, 12, 0, 0, 0, time.UTC)

// said is what an answer in testdata must be read as: a token, or failure.
type said struct {
	format   Response
	token    string // "*": any, for those too long to stand here
	refresh  string
	lifetime time.Duration
	failure  *Error // StatusCode is the file's own
}

const (
	noToken        = "the answer holds no access_token"
	noCode         = "the answer holds no error code"
	isEmptyBody    = "the answer is empty"
	isHTML         = "the answer is HTML, not JSON"
	brokenJS       = "the answer is broken JSON"
	redirectAdvice = ", which is not followed; write the final URL as token_url"
)

func because(reason string) *Error { return &Error{Reason: reason} }

func becauseUntil(reason string, wait time.Duration) *Error {
	return &Error{Reason: reason, RetryAfter: wait}
}

func refusedAs(code, description string) *Error {
	return &Error{Code: code, Description: description, Permanent: true}
}

func failedAs(code, description string) *Error {
	return &Error{Code: code, Description: description}
}

// answers has one entry for each file in testdata/answers.
var answers = map[string]said{
	"affinitylive": {token: "frLA0s1m_D", refresh: "p2Kq~x", lifetime: 720 * time.Hour},
	"affinitylive_other_redirect_uri": {failure: &Error{
		Code: "invalid_grant", Description: "redirect_uri mismatch", URI: "https://api.example.org/docs#grant", Permanent: true,
	}},
	"axosoft":          {token: "10101010-1010-1010-1010-101010101010"},
	"axosoft_refused":  {failure: refusedAs("invalid_grant", "Invalid username or password")},
	"configapi":        {token: "eyJhbGciOiJSUzI1NiI5q9Jgt...6HznsvPWy7UP3MINA", lifetime: 3599 * time.Second},
	"organization_api": {token: "at-1", refresh: "rt-1", lifetime: 43199 * time.Second},

	"rfc6749":                        {token: "2YotnFZFEjr1zCsicMWpAA", refresh: "tGzv3JOkF0XG5Qx2TlKWIA", lifetime: time.Hour},
	"paypal_string_expiry":           {token: "A21AAFEpH4PsADK7qSS7pSRsgz", lifetime: 31668 * time.Second},
	"float_expiry":                   {token: "t", lifetime: 3599500 * time.Millisecond},
	"padded_expiry":                  {token: "t", lifetime: time.Hour},
	"exponent_expiry":                {token: "t", lifetime: time.Hour},
	"exponent_string_expiry":         {token: "t", lifetime: time.Hour},
	"mailchimp_zero_expiry":          {token: "5c6ccc561059aa386da9d112215bae55"},
	"negative_expiry":                {token: "t"},
	"expiry_of_a_millisecond":        {token: "t"},
	"empty_expiry":                   {token: "t"},
	"null_expiry":                    {token: "t"},
	"absurd_expiry":                  {token: "t"},
	"overflowing_expiry":             {token: "t"},
	"overflowing_string_expiry":      {token: "t"},
	"nan_expiry":                     {token: "t"},
	"nan_string_expiry":              {token: "t"},
	"infinite_expiry":                {token: "t"},
	"words_expiry":                   {token: "t"},
	"boolean_expiry":                 {token: "t"},
	"unusable_then_usable_expiry":    {token: "t", lifetime: 30 * time.Minute},
	"facebook_form":                  {token: "EAACEdEose0cBA", lifetime: 5183999 * time.Second},
	"facebook_json_relative_expires": {token: "EAACEdEose0cBA", lifetime: 5183999 * time.Second},
	"azure_expires_on":               {token: "eyJ0eXAi", lifetime: 86399 * time.Second},
	"azure_app_service_expires_on":   {token: "eyJ0eXAi"},
	"strava_expires_at":              {token: "a9b723", refresh: "b5c569", lifetime: 20566 * time.Second},
	"epoch_milliseconds":             {token: "t", lifetime: 10 * time.Minute},
	"epoch_float":                    {token: "t", lifetime: 10*time.Minute + 500*time.Millisecond},
	"past_epoch":                     {token: "t"},
	"github_app_rfc3339": {
		format: Response{AccessToken: "token", ExpiresAt: "expires_at", ExpiresAtFormat: "rfc3339"},
		token:  "ghs_16C7e42F292c6912E7710c838347Ae178B4a", lifetime: time.Hour,
	},
	"rfc3339_with_offset":  {token: "t", lifetime: time.Hour + 250*time.Millisecond},
	"iso8601_basic_offset": {token: "t", lifetime: time.Hour},
	"time_without_zone":    {token: "t"},
	"aspnet_expires":       {format: Response{ExpiresAt: ".expires"}, token: "t", lifetime: 14 * 24 * time.Hour},
	"http_date_expires":    {token: "t", lifetime: 20 * time.Minute},
	"clock_an_hour_ahead":  {token: "t", lifetime: 5 * time.Minute},
	"broken_date":          {token: "t", lifetime: 5 * time.Minute},
	"jwt_exp":              {token: "*", lifetime: 15 * time.Minute},
	"jwt_exp_ahead_of_us":  {token: "*", lifetime: 15 * time.Minute},
	"jwt_exp_float_past":   {token: "*"},
	"jwt_expires_in_wins":  {token: "*", lifetime: time.Minute},
	"jwt_broken":           {token: "a.!!!.c"},
	"jwt_without_claims":   {token: "v4.cHVibGlj.c"},

	"camel_case": {token: "t", refresh: "r", lifetime: 30 * time.Minute},
	"firebase_camel_case_id_token": {
		format: Response{AccessToken: "idToken"}, token: "eyJ", refresh: "AEu4", lifetime: time.Hour,
	},
	"upper_case":                  {token: "t", refresh: "r", lifetime: 30 * time.Minute},
	"exact_name_wins":             {token: "right"},
	"two_odd_names":               {token: "first"},
	"duplicate_names":             {token: "last"},
	"byte_order_mark":             {token: "t", lifetime: time.Minute},
	"byte_order_mark_after_blank": {token: "t", lifetime: time.Minute},
	"trailing_commas":             {token: "t", lifetime: time.Minute},
	"comma_bracket_in_string":     {token: `a,}b,]c",}d`, lifetime: time.Minute},
	"semicolon_behind":            {token: "t", lifetime: time.Minute},
	"json_as_html":                {token: "t", lifetime: time.Minute},
	"invalid_utf8":                {token: "t", lifetime: time.Minute},
	"numeric_token":               {token: "12345678901234567890", refresh: "98765432109876543210", lifetime: time.Minute},
	"github_form":                 {token: "gho_16C7e42F292c6912E7710c838347Ae178B4a"},
	"github_200_with_error": {failure: &Error{
		Code: "bad_verification_code", Description: "The code passed is incorrect or expired.", URI: "https://docs.github.com/apps",
	}},
	"form_with_a_bad_pair": {token: "t", lifetime: time.Minute},
	"form_as_json_type":    {token: "a+b", lifetime: time.Minute},

	"empty_token":        {failure: because("the answer's access_token is empty")},
	"blank_token":        {failure: because("the answer's access_token is empty")},
	"null_token":         {failure: because(noToken)},
	"object_token":       {failure: because("the answer's access_token is not a string")},
	"boolean_token":      {failure: because("the answer's access_token is not a string")},
	"line_break_token":   {failure: because("the answer's access_token holds control characters")},
	"control_byte_token": {failure: because("the answer's access_token holds control characters")},
	"delete_byte_token":  {failure: because("the answer's access_token holds control characters")},
	"no_token":           {failure: because(noToken)},
	"array":              {failure: because(noToken)},

	"slack_refused":           {format: Response{Error: "ok", ErrorOK: []string{"true"}}, failure: failedAs("invalid_auth", "")},
	"slack_ok":                {format: Response{Error: "ok", ErrorOK: []string{"true"}}, token: "xoxb-17653672481"},
	"error_false":             {token: "t"},
	"error_string_false":      {token: "t"},
	"error_zero":              {token: "t"},
	"error_string_zero":       {token: "t"},
	"error_null":              {token: "t"},
	"error_empty_list":        {format: Response{Error: "error"}, token: "t"},
	"error_none":              {format: Response{ErrorOK: []string{"none"}}, token: "t"},
	"google_error_object":     {failure: failedAs("UNAUTHENTICATED", "Request had invalid authentication credentials.")},
	"facebook_error_object":   {failure: failedAs("OAuthException", "Error validating verification code.")},
	"error_object_numeric":    {failure: failedAs("1401", "wrong tenant")},
	"error_object_rfc_code":   {failure: &Error{Code: "invalid_client", Description: "unknown client", URI: "https://e.example.org/1", Permanent: true}},
	"error_list":              {failure: refusedAs("invalid_grant", "")},
	"error_true":              {failure: &Error{Description: "Invalid credentials", Reason: noCode}},
	"error_true_with_code":    {failure: refusedAs("invalid_client", "Invalid credentials")},
	"error_number":            {failure: failedAs("1042", "tenant locked")},
	"error_sentence_unicode":  {failure: &Error{Description: "Benutzer ungültig", Reason: noCode}},
	"error_upper_case":        {failure: refusedAs("invalid_grant", "gone")},
	"azure_invalid_client":    {failure: &Error{Code: "invalid_client", Description: "AADSTS7000215: Invalid client secret provided.  Trace ID: 0000", URI: "https://login.microsoftonline.com/error?code=7000215", Permanent: true}},
	"twitter_errors":          {failure: because(noCode)},
	"message_alone":           {failure: &Error{Description: "Not Found", Reason: noCode}},
	"invalid_request_503":     {failure: failedAs("invalid_request", "")},
	"invalid_grant_429":       {failure: failedAs("invalid_grant", "")},
	"invalid_client_408":      {failure: failedAs("invalid_client", "")},
	"invalid_client_425":      {failure: failedAs("invalid_client", "")},
	"temporarily_unavailable": {failure: failedAs("temporarily_unavailable", "")},
	"token_in_a_failure":      {failure: because(noCode)},
	"html_500":                {failure: because(isHTML)},
	"html_200_login_page":     {failure: because(isHTML)},
	"xml_400":                 {failure: because("the answer is XML, not JSON")},
	"text_502":                {failure: because("the answer is neither JSON nor a form")},
	"empty_200":               {failure: because(isEmptyBody)},
	"empty_401":               {failure: because(isEmptyBody)},
	"truncated":               {failure: because("the answer broke off")},
	"not_json":                {failure: because(brokenJS)},
	"unclosed_string":         {failure: because("the answer broke off")},

	"rate_limited_seconds":     {failure: &Error{Code: "slow_down", RetryAfter: 2 * time.Minute}},
	"rate_limited_date":        {failure: becauseUntil(isEmptyBody, 5*time.Minute)},
	"rate_limited_date_skewed": {failure: becauseUntil(isEmptyBody, 5*time.Minute)},
	"rate_limited_past":        {failure: because(isEmptyBody)},
	"rate_limited_negative":    {failure: because(isEmptyBody)},
	"rate_limited_garbage":     {failure: because(isEmptyBody)},
	"rate_limited_for_ever":    {failure: becauseUntil(isEmptyBody, 24*time.Hour)},
	"redirect":                 {failure: because("a redirect to login.example.org" + redirectAdvice)},
	"redirect_relative":        {failure: because("a redirect to another place on the same host" + redirectAdvice)},
	"redirect_nowhere":         {failure: because("a redirect without a usable Location")},
	"redirect_not_http":        {failure: because("a redirect without a usable Location")},

	"tiktok_nested": {
		format: Response{AccessToken: "data.access_token", RefreshToken: "data.refresh_token", ExpiresIn: "data.expires_in", Error: "data.error_code"},
		token:  "act.f7", refresh: "rft.x", lifetime: 24 * time.Hour,
	},
	"tiktok_nested_error": {
		format:  Response{AccessToken: "data.access_token", Error: "message", ErrorOK: []string{"success"}},
		failure: failedAs("error", "error"),
	},
	"keystone_array":     {format: Response{AccessToken: "items.0.token", ExpiresAt: "items.0.ends"}, token: "k1", lifetime: 30 * time.Minute},
	"vault_auth":         {format: Response{AccessToken: "auth.client_token", ExpiresIn: "auth.lease_duration"}, token: "hvs.CAES", lifetime: 768 * time.Hour},
	"adobe_milliseconds": {format: Response{ExpiresInUnit: time.Millisecond}, token: "t", lifetime: 86399999 * time.Millisecond},
	"wechat_errcode":     {format: Response{Error: "errcode", ErrorOK: []string{"0"}}, failure: failedAs("40013", "")},
	"wechat_ok":          {format: Response{Error: "errcode", ErrorOK: []string{"0"}}, token: "t", lifetime: 2 * time.Hour},
	"path_error_sentence": {
		format: Response{AccessToken: "token", Error: "result", ErrorOK: []string{"OK"}}, failure: &Error{Description: "Login failed: wrong password", Reason: noCode},
	},
	"path_error_false":          {format: Response{Error: "success", ErrorOK: []string{"true"}}, failure: failedAs("false", "")},
	"path_error_object":         {format: Response{Error: "fault", ErrorOK: []string{""}}, failure: failedAs("E17", "no such tenant")},
	"path_error_hides_rfc":      {format: Response{Error: "status", ErrorOK: []string{"OK"}}, failure: refusedAs("invalid_grant", "locked")},
	"dotted_name":               {format: Response{AccessToken: "urn:x.token", ExpiresIn: "urn:x.expires"}, token: "t", lifetime: time.Minute},
	"unix_path_in_milliseconds": {format: Response{ExpiresAt: "expires_at", ExpiresAtFormat: "unix"}, token: "t"},
	"error_of_control_bytes":    {failure: because(noCode)},
	"unix_path_small":           {format: Response{ExpiresAt: "valid.until", ExpiresAtFormat: "unix"}, token: "t"},
	"bare_text":                 {format: Response{AccessToken: "."}, token: "eyJ.bare-token"},
	"bare_json_string":          {format: Response{AccessToken: "."}, token: "bare-token"},
	"bare_sentence":             {format: Response{AccessToken: "."}, failure: because("the answer is a text, not a token")},
	"bare_html":                 {format: Response{AccessToken: "."}, failure: because(isHTML)},
	"bare_refused":              {format: Response{AccessToken: "."}, failure: refusedAs("invalid_client", "")},
}

// loadAnswer reads a file of testdata/answers: an HTTP response with bare line feeds
// in its head, and one more behind the body.
func loadAnswer(t testing.TB, name string) *http.Response {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", "answers", name+".txt"))
	if err != nil {
		t.Fatal(err)
	}
	head, body, ok := bytes.Cut(bytes.TrimSuffix(raw, []byte("\n")), []byte("\n\n"))
	if !ok {
		t.Fatalf("%s: no blank line between head and body", name)
	}
	wire := append(bytes.ReplaceAll(head, []byte("\n"), []byte("\r\n")), "\r\n\r\n"...)
	resp, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(append(wire, body...))), nil)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return resp
}

// madeUp is an answer made on the spot.
func madeUp(status int, body string) *http.Response {
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body))}
}

func answerNames(t testing.TB) (names []string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", "answers", "*.txt"))
	if err != nil || len(files) == 0 {
		t.Fatal("no answers found: ", err)
	}
	for _, file := range files {
		names = append(names, strings.TrimSuffix(filepath.Base(file), ".txt"))
	}
	return names
}

func TestEveryKnownAnswerIsReadAsItsProviderMeansIt(t *testing.T) {
	found := answerNames(t)
	if len(found) != len(answers) {
		t.Errorf("%d files in testdata/answers, %d expectations", len(found), len(answers))
	}
	for _, name := range found {
		t.Run(name, func(t *testing.T) {
			want, ok := answers[name]
			if !ok {
				t.Fatal("nothing is expected of this answer")
			}
			resp := loadAnswer(t, name)
			got, failure := want.format.read(resp, noon)
			if want.failure != nil {
				compareFailure(t, got, failure, want.failure, resp.StatusCode)
				return
			}
			compareAnswer(t, got, failure, want)
		})
	}
}

func compareFailure(t *testing.T, got *answer, failure, want *Error, status int) {
	t.Helper()
	if failure == nil {
		t.Fatalf("read as %+v, want the error %q", *got, want)
	}
	newScrubber().error(failure)
	expected := *want
	expected.StatusCode = status
	if g, w := describe(failure), describe(&expected); g != w {
		t.Errorf("\n got %+v\nwant %+v", g, w)
	}
}

// errorFields is an Error without its func.
type errorFields struct {
	code, description, uri, reason string
	status                         int
	permanent                      bool
	retryAfter                     time.Duration
}

func describe(e *Error) errorFields {
	return errorFields{e.Code, e.Description, e.URI, e.Reason, e.StatusCode, e.Permanent, e.RetryAfter}
}

func compareAnswer(t *testing.T, got *answer, failure *Error, want said) {
	t.Helper()
	if failure != nil {
		t.Fatalf("read as the error %q", failure)
	}
	expected := answer{accessToken: want.token, refreshToken: want.refresh, lifetime: want.lifetime}
	if want.token == "*" {
		expected.accessToken = got.accessToken
	}
	got.scopes, got.tokenType = nil, ""
	if !reflect.DeepEqual(*got, expected) {
		t.Errorf("\n got %+v\nwant %+v", *got, expected)
	}
}

func TestAnAnswerIsReadUpTo1MiBAndNotBeyond(t *testing.T) {
	const start, end = `{"access_token":"t","pad":"`, `"}`
	for _, test := range []struct {
		size   int
		reason string
	}{
		{1 << 20, ""},
		{1<<20 + 1, "the answer is larger than 1 MiB"},
		{2 << 20, "the answer is larger than 1 MiB"},
	} {
		body := start + strings.Repeat("x", test.size-len(start)-len(end)) + end
		_, failure := new(Response).read(madeUp(200, body), noon)
		if reason := reasonOf(failure); reason != test.reason {
			t.Errorf("%d bytes: %q, want %q", test.size, reason, test.reason)
		}
	}
}

func reasonOf(e *Error) string {
	if e == nil {
		return ""
	}
	return e.Reason
}

func TestAnAnswerThatBreaksOffIsNoTokenEvenIfItLooksWhole(t *testing.T) {
	resp := madeUp(200, "")
	resp.Header.Set("Retry-After", "7")
	resp.Body = io.NopCloser(io.MultiReader(
		strings.NewReader(`{"access_token":"t"}`), iotest.ErrReader(errors.New("connection reset"))))
	got, failure := new(Response).read(resp, noon)
	compareFailure(t, got, failure, becauseUntil("the answer did not come to its end", 7*time.Second), 200)
}

func TestAnAnswersBodyIsNeverPartOfAnError(t *testing.T) {
	const marker = "hunter2-in-the-body"
	for _, body := range []string{
		marker, "<html>" + marker, "{" + marker, `{"` + marker + `":`, `{"x":"` + marker + `"}`, "[" + marker + "]",
		`{"access_token":["` + marker + `"]}`, `{"access_token":"\n` + marker + `"}`, "x=" + marker, "<?xml " + marker,
	} {
		for _, status := range []int{200, 400, 500} {
			_, failure := new(Response).read(madeUp(status, body), noon)
			if failure == nil || strings.Contains(failure.Error(), marker) {
				t.Errorf("%d %s: %v", status, body, failure)
			}
		}
	}
}

func TestAMissingTokenIsNamedByItsPath(t *testing.T) {
	for path, want := range map[string]string{
		"":             noToken,
		"data.token":   "the answer holds no data.token",
		"items.1.x":    "the answer holds no items.1.x",
		"items.-1":     "the answer holds no items.-1",
		"items.0.x.y":  "the answer holds no items.0.x.y",
		"items.0":      "the answer's items.0 is not a string",
		"items.0.x.":   "the answer holds no items.0.x.",
		"ACCESS_TOKEN": "the answer holds no ACCESS_TOKEN",
		".":            "the answer's token is not a string",
	} {
		f := Response{AccessToken: path}
		_, failure := f.read(madeUp(200, `{"items":[{"x":"y"}],"data":7}`), noon)
		if reason := reasonOf(failure); reason != want {
			t.Errorf("%q: %q, want %q", path, reason, want)
		}
	}
}

// The limit is far from what linear time takes, and from what else would take:
// minutes.
func TestMaliciousAnswersAreReadInNoTime(t *testing.T) {
	fill := func(s string) string { return strings.Repeat(s, (maxAnswer-100)/len(s)) }
	for name, body := range map[string]string{
		"deep lists":       fill("["),
		"deep objects":     fill(`{"error":`),
		"deep error list":  `{"error":` + strings.Repeat("[", 9000) + strings.Repeat("]", 9000) + "}",
		"commas":           "[" + fill(",") + "]",
		"blank commas":     "[" + fill(", ") + "]",
		"escapes":          `{"access_token":"` + fill(`\\`) + `"`,
		"huge number":      `{"access_token":"t","expires_in":` + fill("9") + `}`,
		"huge string":      `{"access_token":"t","expires_in":"` + fill("1") + `"}`,
		"huge exponent":    `{"access_token":"t","expires_in":1e` + fill("9") + `}`,
		"equal names":      `{` + fill(`"ERROR":1,`) + `}`,
		"names":            `{` + fill(`"A_`) + `}`,
		"dots":             `{"access_token":"` + fill(".") + `"}`,
		"jwt":              `{"access_token":"a.` + fill("e") + `.c"}`,
		"form":             fill("a=b&"),
		"percents":         fill("%") + "=",
		"minus signs":      "{" + fill("-") + "}",
		"invalid UTF-8":    `{"error":"` + fill("\xff") + `"}`,
		"lone surrogates":  `{"error":"` + fill(`\ud800`) + `"}`,
		"not a time":       `{"access_token":"t","expires_at":"` + fill("T") + `"}`,
		"description":      `{"error":"invalid_grant","error_description":"` + fill("x ") + `"}`,
		"null description": `{"error":"` + fill(`\u0000`) + `"}`,
	} {
		t.Run(name, func(t *testing.T) {
			started := time.Now()
			got, failure := (&Response{ExpiresAt: "a.b.c", Error: "x.y"}).read(madeUp(200, body), noon)
			if (got == nil) == (failure == nil) {
				t.Error("neither a token nor an error, or both")
			}
			if failure != nil {
				newScrubber("a secret").error(failure)
			}
			if took := time.Since(started); took > 10*time.Second {
				t.Errorf("took %v", took)
			}
		})
	}
}

// dialects are what FuzzAnswer reads with.
var dialects = []Response{
	{},
	{AccessToken: "data.0.token", RefreshToken: "data.1", ExpiresIn: "data.2", ExpiresInUnit: time.Hour, Error: "status", ErrorOK: []string{"0"}},
	{AccessToken: ".", ExpiresAt: "expires_at", ExpiresAtFormat: "unix_ms"},
	{ExpiresAt: "expires_at", ExpiresAtFormat: "rfc3339", Error: "error", ErrorOK: []string{"none", "1"}},
	{ExpiresAt: "expires_in", ExpiresAtFormat: "unix", Error: "."},
}

func FuzzAnswer(f *testing.F) {
	for i, name := range answerNames(f) {
		resp := loadAnswer(f, name)
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			f.Fatal(err)
		}
		head := resp.Header
		f.Add(resp.StatusCode, head.Get("Date"), head.Get("Retry-After"), head.Get("Location"), body, uint(i))
	}
	f.Fuzz(func(t *testing.T, status int, date, retry, location string, body []byte, dialect uint) {
		resp := madeUp(status, string(body))
		resp.Header = http.Header{"Date": {date}, "Retry-After": {retry}, "Location": {location}}
		got, failure := dialects[dialect%uint(len(dialects))].read(resp, noon)
		switch {
		case (got == nil) == (failure == nil):
			t.Fatalf("token %v, error %v: want one of them", got, failure)
		case got != nil:
			checkAnswer(t, got, status)
		default:
			checkError(t, failure, status)
		}
	})
}

func checkAnswer(t *testing.T, got *answer, status int) {
	if status/100 != 2 {
		t.Errorf("a token with status %d", status)
	}
	if got.accessToken == "" || strings.ContainsFunc(got.accessToken, func(r rune) bool { return r < 0x20 || r == 0x7f }) {
		t.Errorf("token %q", got.accessToken)
	}
	if got.lifetime < 0 || got.lifetime > maxLifetime {
		t.Errorf("lifetime %v", got.lifetime)
	}
}

func checkError(t *testing.T, e *Error, status int) {
	newScrubber().error(e)
	if e.StatusCode != status {
		t.Errorf("status %d, want %d", e.StatusCode, status)
	}
	if e.Code == "" && e.Description == "" && e.Reason == "" {
		t.Error("an error that says nothing")
	}
	if e.Code != "" && !isCode(e.Code) {
		t.Errorf("code %q", e.Code)
	}
	if e.RetryAfter < 0 || e.RetryAfter > maxRetryAfter {
		t.Errorf("RetryAfter %v", e.RetryAfter)
	}
	if e.Permanent && (e.Code == "" || e.Code != strings.ToLower(e.Code) || isTransient(status)) {
		t.Errorf("permanent with code %q and status %d", e.Code, status)
	}
	for _, text := range []string{e.Description, e.URI, e.Reason} {
		if len(text) > maxDescription || !utf8.ValidString(text) || strings.ContainsFunc(text, unicode.IsControl) {
			t.Errorf("text %q", text)
		}
	}
}
