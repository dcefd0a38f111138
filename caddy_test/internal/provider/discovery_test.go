package provider

import (
	"encoding/json"
	"net/http"
	"slices"
	"testing"
)

func TestMetadataStandsAtItsTwoPlaces(t *testing.T) {
	for _, c := range []struct {
		metadata      Metadata
		openID, oauth int
		place         [2]string
	}{
		{Metadata{}, 404, 404, [2]string{"/.well-known/openid-configuration", "/.well-known/oauth-authorization-server"}},
		{Metadata{OpenID: true}, 200, 404, [2]string{"/.well-known/openid-configuration", "/.well-known/oauth-authorization-server"}},
		{Metadata{OAuth: true}, 404, 200, [2]string{"/.well-known/openid-configuration", "/.well-known/oauth-authorization-server"}},
		{Metadata{OpenID: true, OAuth: true, Path: "/a/b"}, 200, 200, [2]string{"/a/b/.well-known/openid-configuration", "/.well-known/oauth-authorization-server/a/b"}},
	} {
		p := New(t, Dialect{})
		p.Announce(c.metadata)
		for i, want := range []int{c.openID, c.oauth} {
			resp, err := http.Get(p.URL + c.place[i])
			if err != nil {
				t.Fatal(err)
			}
			var document map[string]any
			_ = json.NewDecoder(resp.Body).Decode(&document)
			resp.Body.Close()
			if resp.StatusCode != want {
				t.Errorf("%s of %+v answered %d", c.place[i], c.metadata, resp.StatusCode)
			}
			if want == http.StatusOK && (document["issuer"] != p.Issuer() || document["token_endpoint"] != p.TokenURL()) {
				t.Errorf("the document: %v", document)
			}
		}
		if got := p.Discovered(); !slices.Equal(got, c.place[:]) {
			t.Errorf("asked for were %v", got)
		}
		p.AssertStrict()
	}
}

func TestMetadataCanBeSpoiled(t *testing.T) {
	p := New(t, Dialect{})
	p.Announce(Metadata{OpenID: true, Iss: true, Change: func(document map[string]any) { document["issuer"] = "https://evil.example.org" }})
	resp, err := http.Get(p.URL + "/.well-known/openid-configuration?a=b")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var document map[string]any
	if err := json.NewDecoder(resp.Body).Decode(&document); err != nil {
		t.Fatal(err)
	}
	if document["issuer"] != "https://evil.example.org" || document["authorization_response_iss_parameter_supported"] != true || len(p.Violations()) != 1 {
		t.Errorf("the document: %v; violations: %v", document, p.Violations())
	}
}
