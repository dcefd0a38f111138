package tokensource

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

// answering is a transport that always gives the same answer.
type answering struct {
	status int
	body   io.Reader
}

func (a answering) RoundTrip(req *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: a.status, Header: http.Header{}, Body: io.NopCloser(a.body), Request: req}, nil
}

func TestATokenInAnAnswerThatIsAnErrorIsNotShown(t *testing.T) {
	s, err := New(Config{
		Grant: "client_credentials", TokenURL: "https://auth.example.org/token", ClientID: "id",
		Response: Response{Error: "status", ErrorOK: []string{"ok"}},
		Transport: answering{http.StatusOK, strings.NewReader(
			`{"access_token":"issued-token","refresh_token":"issued-refresh","status":"warn","message":"issued-token replaces one, issued-refresh another"}`)},
	})
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Obtain(t.Context(), nil)
	if err == nil {
		t.Fatal("there is a token")
	}
	if text := fmt.Sprintf("%v %+v", err, err); strings.Contains(text, "issued-") {
		t.Errorf("the error shows what was issued: %s", text)
	}
}

func TestSwitchingProtocolsIsNoAnswerAndIsNotReadFrom(t *testing.T) {
	never, end := io.Pipe()
	defer end.Close()
	s, err := New(Config{
		Grant: "client_credentials", TokenURL: "https://auth.example.org/token", ClientID: "id",
		Transport: answering{http.StatusSwitchingProtocols, never},
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err = s.Obtain(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "101") {
		t.Errorf("the error is %v", err)
	}
}
