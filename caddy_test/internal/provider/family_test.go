package provider

import (
	"encoding/json"
	"net/http"
	"testing"
)

func TestAReusedRefreshTokenRevokesItsFamilyAndNoOther(t *testing.T) {
	p := New(t, Dialect{})
	p.Set(func(k *Knobs) { k.Rotate, k.Families = true, true })
	type answer struct {
		Access  string `json:"access_token"`
		Refresh string `json:"refresh_token"`
	}
	refresh := func(token string) (a answer, status int) {
		status, text, _ := post("grant_type=refresh_token&refresh_token="+token, basic(ClientID, ClientSecret)).ask(t, p)
		if err := json.Unmarshal([]byte(text), &a); err != nil {
			t.Fatalf("answered %d %s", status, text)
		}
		return a, status
	}
	seed := p.IssueRefreshToken()
	first, _ := refresh(seed)
	second, _ := refresh(first.Refresh)
	other, _ := refresh(p.IssueRefreshToken())
	for name, token := range map[string]string{"the first": first.Access, "the second": second.Access, "the other": other.Access} {
		if !p.Valid(token) {
			t.Errorf("%s access token is not valid", name)
		}
	}

	if _, status := refresh(first.Refresh); status != http.StatusBadRequest {
		t.Errorf("a spent refresh token was answered with %d", status)
	}
	if p.Valid(first.Access) || p.Valid(second.Access) {
		t.Error("an access token of the family is valid after a reuse")
	}
	if _, status := refresh(second.Refresh); status != http.StatusBadRequest {
		t.Errorf("the newest refresh token of the family was answered with %d", status)
	}
	if _, status := refresh(other.Refresh); status != http.StatusOK || !p.Valid(other.Access) {
		t.Errorf("another family suffered: %d", status)
	}
	if p.Reused() != 1 || p.RevokedFamilies() != 1 {
		t.Errorf("%d reused, %d families revoked, want one of each", p.Reused(), p.RevokedFamilies())
	}
}
